"""Hierarchical feature fusion: a small network beside a frozen encoder, without back-propagation through it.

Huo, Sim, Li, Hwang, Sainath, Strohman, Resource-efficient transfer learning from speech foundation model
using hierarchical feature fusion, 2022, arXiv:2211.02712; `weighted_sum` is the featurizer of Yang et al.,
SUPERB: Speech processing universal performance benchmark, 2021, arXiv:2105.01051.

Provenance: features of several blocks are fused, without back-propagation through the encoder [abstract]. All
equations are ours, as the paper's were not available to us [ours]: the pairwise tree, relu, the norm without
weights that brings blocks to a common scale, the term added to the encoder's output and its initialisation to
zero, and `concat`.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field, StrictBool
from torch import Tensor, nn
from torch.nn import functional

from adaptkit.adapters.api import Adapter, AdapterConfig, Blocks, choose
from adaptkit.adapters.per_task import TaskLinear
from adaptkit.adapters.site import Site
from adaptkit.config import Width


class Config(AdapterConfig):
    """Size of hierarchical feature fusion, the blocks it reads and how they are fused."""

    kind: Literal["hff"] = "hff"
    fusion: Literal["tree", "weighted_sum", "concat"] = Field(
        "tree", description="tree: blocks pair by pair, level by level; weighted_sum; or all concatenated"
    )
    dim: Width = Field(64, description="inner width d")
    taps: Blocks = Field(None, description="blocks whose outputs are fused, counted from 0; null for all")
    cache: StrictBool = Field(
        False,
        description="write these outputs to EXP/taps once and train without running the encoder; K' blocks "
        "of width D take (K' + 1) D values of 4 bytes per encoder frame: 12 blocks of width 256 at 25 frames "
        "per second take 333 kB per second of speech, 1.2 GB per hour. Features must not be augmented",
    )


class HierarchicalFusion(Adapter):
    """y = x + W_out[k] f + b_out[k], x the encoder's output, f (d) fused from K' blocks and k the task.

    With z_j = norm(stop_gradient(x_j)) and x_j the output of the j-th tapped block, f is

    - tree: F_j = P_j[k] z_j + p_j[k], then F' = relu(U[k] [F_2m ; F_2m+1] + u[k]) pair by pair and level by
      level, with its own U and u for each pair, until one is left; an unpaired one moves to the next level
    - weighted_sum: relu(P[k] sum_j softmax(s[k])_j z_j + p[k])
    - concat: relu(P[k] [z_1 ; ... ; z_K'] + p[k])

    W_out and b_out are initialised to zero, so an untrained adapter changes nothing. Parameters:
    K (K' (D d + d) + (K' - 1) (2 d d + d) + d D + D); with `fusion: weighted_sum` K (K' + D d + d + d D + D);
    with `fusion: concat` K (K' D d + d + d D + D).
    """

    wants = frozenset({"block", "encoder_out"})
    spares_encoder = True

    def __init__(self, config: Config, sites: Sequence[Site], num_tasks: int):
        super().__init__()
        self.is_cached = config.cache
        self.taps = choose(sites, frozenset({"block"}), config.taps, option="taps")
        self.read: list[Tensor] = []  # z_j (B, U, D) of the blocks so far, in a forward pass
        width = max((site.dim_out for site in sites if site.kind == "encoder_out"), default=1)
        self.fusion = _FUSIONS[config.fusion](num_tasks, [site.dim_out for site in self.taps], config.dim)
        self.out = TaskLinear(num_tasks, config.dim, width, zero=True)

    def begin(self) -> None:
        """Start a forward pass without block outputs."""
        self.read = []

    def end(self) -> None:
        """Release the block outputs."""
        self.read = []

    def adapt(self, site: Site, x_in: Tensor, x_out: Tensor) -> Tensor:
        """Collect a block's output (B, U, D) unchanged; add the fused features to the encoder's (B, U, D)."""
        if site.kind == "encoder_out":
            return x_out + self.out(self.fusion(self.read, self.task_ids), self.task_ids)
        if site in self.taps:
            self.read.append(functional.layer_norm(x_out.detach(), x_out.shape[-1:]))
        return x_out


class _Tree(nn.Module):
    def __init__(self, num_tasks: int, widths: Sequence[int], dim: int):
        super().__init__()
        self.project = nn.ModuleList(TaskLinear(num_tasks, width, dim) for width in widths)
        self.merge = nn.ModuleList(TaskLinear(num_tasks, 2 * dim, dim) for _ in widths[1:])

    def forward(self, taps: Sequence[Tensor], task_ids: Tensor) -> Tensor:
        """Fuse the outputs of K' blocks (B, U, D) to (B, U, d)."""
        level = [project(x, task_ids) for project, x in zip(self.project, taps, strict=True)]
        merges = iter(self.merge)
        while len(level) > 1:
            odd = level[len(level) // 2 * 2 :]
            pairs = zip(level[::2], level[1::2], strict=False)
            level = [torch.relu(next(merges)(torch.cat(pair, -1), task_ids)) for pair in pairs] + odd
        return level[0]


class _WeightedSum(nn.Module):
    def __init__(self, num_tasks: int, widths: Sequence[int], dim: int):
        super().__init__()
        self.scores = TaskLinear(num_tasks, 1, len(widths), zero=True, has_bias=False)  # of the constant 1
        self.project = TaskLinear(num_tasks, max(widths, default=1), dim)

    def forward(self, taps: Sequence[Tensor], task_ids: Tensor) -> Tensor:
        """Fuse the outputs of K' blocks (B, U, D) to (B, U, d)."""
        one = taps[0].new_ones(len(task_ids), 1, 1)
        weights = self.scores(one, task_ids).softmax(-1).unbind(-1)  # K' of (B, 1)
        mixed = sum(weight[..., None] * x for weight, x in zip(weights, taps, strict=True))
        return torch.relu(self.project(mixed, task_ids))


class _Concat(nn.Module):
    def __init__(self, num_tasks: int, widths: Sequence[int], dim: int):
        super().__init__()
        self.project = TaskLinear(num_tasks, sum(widths), dim)

    def forward(self, taps: Sequence[Tensor], task_ids: Tensor) -> Tensor:
        """Fuse the outputs of K' blocks (B, U, D) to (B, U, d)."""
        return torch.relu(self.project(torch.cat(list(taps), -1), task_ids))


_FUSIONS = {"tree": _Tree, "weighted_sum": _WeightedSum, "concat": _Concat}
build = HierarchicalFusion
