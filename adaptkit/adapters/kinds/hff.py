"""Hierarchical feature fusion: a small network beside a frozen encoder, without back-propagation through it.

Huo, Sim, Li, Hwang, Sainath, Strohman, Resource-efficient transfer learning from speech foundation model
using hierarchical feature fusion, 2022, arXiv:2211.02712; `weighted_sum` is the featurizer of Yang et al.,
SUPERB: Speech processing universal performance benchmark, 2021, arXiv:2105.01051; the scales of `shared` are
those of Swietojanski, Li, Renals, Learning hidden unit contributions for unsupervised acoustic model
adaptation, 2016, arXiv:1601.02828, with shifts as in Perez et al., FiLM, 2018, arXiv:1709.07871.

Provenance: features of several blocks are fused, without back-propagation through the encoder [abstract]. All
equations are ours, as the paper's were not available to us [ours]: the pairwise tree, relu, the norm without
weights that brings blocks to a common scale, the term added to the encoder's output and its initialisation to
zero, `concat`, `shared` with its scales and shifts, `tap_dropout`, and `side` with its layers.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Literal

import torch
from pydantic import Field, StrictBool, model_validator
from torch import Tensor, nn
from torch.nn import functional

from adaptkit.adapters.api import Adapter, AdapterConfig, Blocks
from adaptkit.adapters.per_task import TaskBias, TaskLinear, TaskScale
from adaptkit.adapters.side import Attention, Convolution, SharedLinear, mark_frames
from adaptkit.adapters.site import Site, choose
from adaptkit.config import PositiveInt, Width


class Config(AdapterConfig):
    """Size of hierarchical feature fusion, the blocks it reads, the fusion, and the layers after it."""

    kind: Literal["hff"] = "hff"
    fusion: Literal["tree", "weighted_sum", "concat"] = Field(
        "tree", description="tree: blocks pair by pair, level by level; weighted_sum; or all concatenated"
    )
    dim: Width = Field(64, description="inner width d")
    taps: Blocks = Field(None, description="blocks whose outputs are fused, counted from 0; null for all")
    shared: StrictBool = Field(
        False,
        description="true: speakers share the fusion, the side network and output map, between which each "
        "has its own scales and shifts, and an output bias; false: nothing is shared",
    )
    side: Literal["none", "conv", "attention"] = Field(
        "none",
        description="network over time after the fusion, with context that the fusion lacks; only with "
        "'shared: true'; conv looks (kernel - 1) / 2 frames ahead in every layer, attention to the end",
    )
    side_layers: Annotated[PositiveInt, Field(le=100)] = Field(2, description="layers of the side network")
    kernel: Annotated[PositiveInt, Field(le=1001)] = Field(
        7, description="frames that a layer of 'side: conv' reads, odd"
    )
    heads: Width = Field(4, description="heads of 'side: attention'; they divide d")
    tap_dropout: Annotated[float, Field(ge=0.0, lt=1.0, strict=True)] = Field(
        0.0,
        description="probability with which training leaves out a block's output, drawn for each utterance; "
        "only with 'shared: true'",
    )
    cache: StrictBool = Field(
        False,
        description="write these outputs to EXP/taps once and train without running the encoder; K' blocks "
        "of width D take (K' + 1) D values of 4 bytes per encoder frame: 12 blocks of width 256 at 25 frames "
        "per second take 333 kB per second of speech, 1.2 GB per hour. Features must not be augmented",
    )

    @model_validator(mode="after")
    def _side_network_fits(self) -> "Config":
        if self.kernel % 2 == 0:
            raise ValueError(f"'kernel: {self.kernel}' has no middle; set {self.kernel + 1}")
        if self.side == "attention" and self.dim % self.heads:
            raise ValueError(f"'heads: {self.heads}' do not divide 'dim: {self.dim}'")
        unread = {"side_layers": self.side == "none", "kernel": self.side != "conv"}
        for option, has_no_effect in (unread | {"heads": self.side != "attention"}).items():
            value = getattr(self, option)
            if has_no_effect and value != type(self).model_fields[option].default:
                raise ValueError(f"'{option}: {value}' has no effect with 'side: {self.side}'; leave it out")
        for option, is_set in (("side", self.side != "none"), ("tap_dropout", self.tap_dropout > 0)):
            if is_set and not self.shared:
                raise ValueError(f"'{option}: {getattr(self, option)}' needs 'shared: true'")
        return self


class HierarchicalFusion(Adapter):
    """y = x + W_out[k] f + b_out[k], x the encoder's output, f (d) fused from K' blocks and k the task.

    With z_j = norm(stop_gradient(x_j)) and x_j the output of the j-th tapped block, f is

    - tree: F_j = P_j[k] z_j + p_j[k], then F' = relu(U[k] [F_2m ; F_2m+1] + u[k]) pair by pair and level by
      level, with its own U and u for each pair, until one is left; an unpaired one moves to the next level
    - weighted_sum: relu(P[k] sum_j softmax(s[k])_j z_j + p[k])
    - concat: relu(P[k] [z_1 ; ... ; z_K'] + p[k])

    With `shared: true` these maps and W_out are the same for all k; y = x + W_out A_S[k] norm(h_S) + b_out[k]
    with h_0 = f, h_l = layer_l(h_(l-1), A_(l-1)[k] norm(h_(l-1))) for the S layers of `side` (equations
    in adapters/side.py), A_l[k] v = (1 + s_l[k]) * v + t_l[k], s and t initialised to zero. b_out[k] is an
    output bias: through a CTC layer W of V <= D tokens and full rank, W b_out[k] is any bias of the logits.

    W_out and b_out are initialised to zero, so an untrained adapter changes nothing. Parameters:
    K (K' (D d + d) + (K' - 1) (2 d d + d) + d D + D); with `fusion: weighted_sum` K (K' + D d + d + d D + D);
    with `fusion: concat` K (K' D d + d + d D + D). With `shared: true` K ((S + 1) 2 d + D), and once for all
    the above without the factor K and the last D, and S layers: with `side: conv` S (m d + 4 d d + 4 d) for a
    kernel of m frames, with `side: attention` S (8 d d + 7 d + 33 H) for H heads.
    """

    wants = frozenset({"block", "encoder_out"})
    spares_encoder = True

    def __init__(self, config: Config, sites: Sequence[Site], num_tasks: int):
        super().__init__()
        self.is_cached, self.is_shared, self.tap_dropout = config.cache, config.shared, config.tap_dropout
        self.taps = choose(sites, frozenset({"block"}), config.taps, option="taps")
        self.read: list[Tensor] = []  # z_j (B, U, D) of the blocks so far, in a forward pass
        width = max((site.dim_out for site in sites if site.kind == "encoder_out"), default=1)
        linear = SharedLinear if config.shared else partial(TaskLinear, num_tasks)
        self.fusion = _FUSIONS[config.fusion](linear, [site.dim_out for site in self.taps], config.dim)
        self.out = linear(config.dim, width, zero=True, has_bias=not config.shared)
        if config.shared:
            num_layers = 0 if config.side == "none" else config.side_layers
            self.layers = nn.ModuleList(_LAYERS[config.side](config) for _ in range(num_layers))
            self.scales = nn.ModuleList(TaskScale(num_tasks, config.dim) for _ in range(num_layers + 1))
            self.bias = TaskBias(num_tasks, width)

    def begin(self) -> None:
        """Start a forward pass without block outputs."""
        self.read = []

    def end(self) -> None:
        """Release the block outputs."""
        self.read = []

    def adapt(self, site: Site, x_in: Tensor, x_out: Tensor) -> Tensor:
        """Collect a block's output (B, U, D) unchanged; add the fused features to the encoder's (B, U, D)."""
        if site.kind == "encoder_out":
            fused = self.fusion(self.read, self.task_ids)
            return x_out + (self._see(fused) if self.is_shared else self.out(fused, self.task_ids))
        if site in self.taps:
            self.read.append(self._drop(functional.layer_norm(x_out.detach(), x_out.shape[-1:])))
        return x_out

    def _see(self, fused: Tensor) -> Tensor:
        """Return what shared maps add to the encoder's output (B, U, D), given fused features (B, U, d)."""
        is_frame = mark_frames(self.frames, fused)
        *scales, last = self.scales
        for layer, scale in zip(self.layers, scales, strict=True):
            normed = functional.layer_norm(fused, fused.shape[-1:])
            fused = layer(fused, scale(normed, self.task_ids), is_frame)
        normed = functional.layer_norm(fused, fused.shape[-1:])
        return self.bias(self.out(last(normed, self.task_ids)), self.task_ids)

    def _drop(self, x: Tensor) -> Tensor:
        """Leave a block's output (B, U, D) out for some rows, in training with `tap_dropout`."""
        if not (self.training and self.tap_dropout):
            return x
        return x * functional.dropout(x.new_ones(len(x), 1, 1), self.tap_dropout)


class _Tree(nn.Module):
    def __init__(self, linear: Callable[..., nn.Module], widths: Sequence[int], dim: int):
        super().__init__()
        self.project = nn.ModuleList(linear(width, dim) for width in widths)
        self.merge = nn.ModuleList(linear(2 * dim, dim) for _ in widths[1:])

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
    def __init__(self, linear: Callable[..., nn.Module], widths: Sequence[int], dim: int):
        super().__init__()
        self.scores = linear(1, len(widths), zero=True, has_bias=False)  # of the constant 1
        self.project = linear(max(widths, default=1), dim)

    def forward(self, taps: Sequence[Tensor], task_ids: Tensor) -> Tensor:
        """Fuse the outputs of K' blocks (B, U, D) to (B, U, d)."""
        one = taps[0].new_ones(len(task_ids), 1, 1)
        weights = self.scores(one, task_ids).softmax(-1).unbind(-1)  # K' of (B, 1)
        mixed = sum(weight[..., None] * x for weight, x in zip(weights, taps, strict=True))
        return torch.relu(self.project(mixed, task_ids))


class _Concat(nn.Module):
    def __init__(self, linear: Callable[..., nn.Module], widths: Sequence[int], dim: int):
        super().__init__()
        self.project = linear(sum(widths), dim)

    def forward(self, taps: Sequence[Tensor], task_ids: Tensor) -> Tensor:
        """Fuse the outputs of K' blocks (B, U, D) to (B, U, d)."""
        return torch.relu(self.project(torch.cat(list(taps), -1), task_ids))


_FUSIONS = {"tree": _Tree, "weighted_sum": _WeightedSum, "concat": _Concat}
_LAYERS = {
    "conv": lambda config: Convolution(config.dim, config.kernel),
    "attention": lambda config: Attention(config.dim, config.heads),
}
build = HierarchicalFusion
