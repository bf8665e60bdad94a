"""Residual adapters after or parallel to every block, one set per task.

Houlsby et al., Parameter-efficient transfer learning for NLP, 2019, arXiv:1902.00751; for speech recognition
Kannan et al., Large-scale multilingual speech recognition with a streaming end-to-end model, 2019,
arXiv:1909.05330, and Tomanek et al., Residual adapters for parameter-efficient ASR adaptation to atypical and
accented speech, 2021, arXiv:2109.06952.

    Provenance: the equation, W_up initialised to zero and the norm without per-task weights follow the public
    code of the same group (google/praxis) [code]; a norm without any weights is our choice, and so is
    `block_parallel`, after He et al., Towards a unified view of parameter-efficient transfer learning, 2022,
    arXiv:2110.04366 [ours].
"""

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from adaptkit.adapters.api import Adapter, AdapterConfig, Blocks
from adaptkit.adapters.per_task import TaskLinear
from adaptkit.adapters.site import Site, choose
from adaptkit.config import Width


class Config(AdapterConfig):
    """Size and placement of a residual adapter."""

    kind: Literal["residual"] = "residual"
    bottleneck: Width = Field(64, description="bottleneck width R; 16 to 256 in the literature")
    placement: Literal["block_sequential", "block_parallel"] = Field(
        "block_sequential", description="whether the adapter reads the block's output or its input"
    )
    blocks: Blocks = Field(None, description="blocks with adapters, counted from 0; null for all")


class Residual(Adapter):
    """y = x + W_up[k] relu(W_down[k] norm(z) + b_down[k]) + b_up[k], x a block's output and k the task.

    z is x, or the block's input with `placement: block_parallel`. W_up and b_up are initialised to zero, so
    an untrained adapter changes nothing. Parameters: K L (2 D R + R + D); with `blocks`, L is the number of
    chosen blocks.
    """

    wants = frozenset({"block"})

    def __init__(self, config: Config, sites: Sequence[Site], num_tasks: int):
        super().__init__()
        self.is_parallel = config.placement == "block_parallel"
        self.down, self.up = nn.ModuleDict(), nn.ModuleDict()
        for site in choose(sites, self.wants, config.blocks):
            self.down[site.key] = TaskLinear(num_tasks, site.dim_out, config.bottleneck)
            self.up[site.key] = TaskLinear(num_tasks, config.bottleneck, site.dim_out, zero=True)

    def adapt(self, site: Site, x_in: Tensor, x_out: Tensor) -> Tensor:
        """Add the bottleneck of each row's task to a block's output (B, U, D)."""
        if site.key not in self.down:  # a block without an adapter
            return x_out
        read = x_in if self.is_parallel else x_out
        normed = functional.layer_norm(read, read.shape[-1:])
        hidden = torch.relu(self.down[site.key](normed, self.task_ids))  # (B, U, R)
        return x_out + self.up[site.key](hidden, self.task_ids)


build = Residual
