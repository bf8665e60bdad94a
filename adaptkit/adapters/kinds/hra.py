"""Hierarchical recurrent adapter: one controller for all tasks and blocks, one small head per task.

Munkhdalai, Chen, Sim, Biadsy, Sainath, Moreno Mengibar, Hierarchical recurrent adapters for efficient
multi-task adaptation of large speech models, 2024, arXiv:2403.19709; the recurrence is that of Li et al.,
Independently recurrent neural network (IndRNN), 2018, arXiv:1803.04831. PEFT's "HRA" is another method
(Householder reflections).

Provenance: one controller shared by tasks and blocks, and one head per task shared by blocks [abstract]; the
recurrence over depth, the sum x + o and both forms of head [review]; that x is the block's output and x + o
enters the next block, the biases of the heads, the initialisation and the bound on u [ours].
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from pydantic import Field, StrictBool, model_validator
from torch import Tensor, nn
from torch.nn import functional

from adaptkit.adapters.api import Adapter, AdapterConfig
from adaptkit.adapters.per_task import TaskLinear
from adaptkit.adapters.site import Site
from adaptkit.config import Width


class Config(AdapterConfig):
    """Sizes and ablations of a hierarchical recurrent adapter."""

    kind: Literal["hra"] = "hra"
    controller_width: Width = Field(256, description="width H of the controller shared by all tasks")
    head: Literal["linear", "ffn"] = Field(
        "linear",
        description="a task's map from H to the base model's width: one matrix, or two with a relu between",
    )
    head_width: Width | None = Field(None, description="inner width F; only with 'head: ffn'")
    recurrent: StrictBool = Field(True, description="false: no recurrence over blocks (u = 0)")
    share_controller: StrictBool = Field(True, description="false: a separate controller for every block")

    @model_validator(mode="after")
    def _head_has_its_width(self) -> "Config":
        if self.head == "ffn" and self.head_width is None:
            raise ValueError("'head: ffn' needs 'head_width', its inner width")
        if self.head == "linear" and self.head_width is not None:
            raise ValueError(f"'head_width: {self.head_width}' has no effect with 'head: linear'; remove it")
        return self


class Hra(Adapter):
    """h_l = relu(W x_l + u * h_(l-1) + b), y_l = x_l + head_k(h_l), x_l the output of block l and k the task.

    h_0 = 0; u is a vector and * element-wise; head_k(h) = M h + c, or M2 relu(M1 h + c1) + c2 with `ffn`. The
    last matrix and bias of a head are initialised to zero, so an untrained adapter changes nothing; W is
    Xavier-uniform, b = 0 and u uniform from 0 to 1, so that units remember over different numbers of blocks;
    with u = 1 all of them would sum over all blocks, which slows training (egs/voices/RESULTS.md) [ours].

    Parameters: D H + 2 H + K (H D + D); with width D, L blocks and K tasks, in detail:

    - controller: D H + 2 H; with `recurrent: false` there is no u: D H + H
    - controllers with `share_controller: false`: L (D H + 2 H) - H, as the first block has no previous h and
      hence no u; with `recurrent: false` L (D H + H)
    - heads: K (H D + D), or K (H F + F + F D + D) with `ffn`

    In a base model with a single block the controller has no u either: D H + H.
    """

    wants = frozenset({"block"})
    hidden: Tensor | None = None  # h of the previous block (B, U, H), in a forward pass
    maps: tuple[tuple[Tensor, Tensor], ...] = ()  # of the rows' heads, in a forward pass

    def __init__(self, config: Config, sites: Sequence[Site], num_tasks: int):
        super().__init__()
        blocks = [site for site in sites if site.kind in self.wants]
        width = max((site.dim_out for site in blocks), default=1)
        self.is_shared, self.limit = config.share_controller, 2 ** (1 / max(1, len(blocks)))
        self.controllers = nn.ModuleDict()
        for site in blocks[-1:] if self.is_shared else blocks:
            has_memory = config.recurrent and site is not blocks[0]
            self.controllers[self._key(site)] = _Controller(width, config.controller_width, has_memory)
        inner = [] if config.head_width is None else [config.head_width]
        *to_inner, to_base = pairwise([config.controller_width, *inner, width])
        self.head = nn.ModuleList(TaskLinear(num_tasks, *dims) for dims in to_inner)
        self.head.append(TaskLinear(num_tasks, *to_base, zero=True))

    def begin(self) -> None:
        """Reset h, and clip every trained u to +-2^(1/L), so that L blocks at most double h.

        IndRNN also clips after the update. If it were clipped in the equation, a u out of range would get no
        gradient and stay there. A frozen u stays as its file has it, to which enrolled speakers are added.
        """
        self.end()
        for controller in self.controllers.values():
            controller.clip(self.limit)

    def end(self) -> None:
        """Release the last block's h and the rows' heads."""
        self.hidden, self.maps = None, ()

    def adapt(self, site: Site, x_in: Tensor, x_out: Tensor) -> Tensor:
        """Add the output of each row's head, which reads the controller, to a block's output (B, U, D)."""
        if not self.maps:  # once for all blocks: with many tasks the gradient of a gather is costly
            self.maps = tuple(linear.of_rows(self.task_ids, x_out.dtype) for linear in self.head)
        self.hidden = self.controllers[self._key(site)](x_out, self.hidden)
        *to_inner, (weight, bias) = self.maps
        inner = self.hidden
        for inner_weight, inner_bias in to_inner:
            inner = torch.relu(torch.baddbmm(inner_bias, inner, inner_weight))  # (B, U, F)
        return x_out + torch.baddbmm(bias, inner, weight)

    def _key(self, site: Site) -> str:
        return "all" if self.is_shared else site.key


class _Controller(nn.Module):
    """h = relu(W x + u * h_before + b) with x (B, U, D) and h (B, U, H); without memory there is no u."""

    def __init__(self, dim: int, width: int, has_memory: bool):
        super().__init__()
        self.weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(width, dim)))
        self.bias = nn.Parameter(torch.zeros(width))
        self.factor = nn.Parameter(torch.rand(width)) if has_memory else None

    def forward(self, x: Tensor, before: Tensor | None) -> Tensor:
        hidden = functional.linear(x, self.weight.to(x.dtype), self.bias.to(x.dtype))
        if self.factor is not None and before is not None:
            hidden = torch.addcmul(hidden, self.factor.to(x.dtype), before)
        return torch.relu(hidden)

    def clip(self, limit: float) -> None:
        """Clip u to the range from -limit to limit, unless it is frozen."""
        if self.factor is not None and self.factor.requires_grad:
            self.factor.data.clamp_(-limit, limit)


build = Hra
