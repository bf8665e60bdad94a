"""Residual adapters after every block, one set per task.

Houlsby et al., Parameter-efficient transfer learning for NLP, 2019, arXiv:1902.00751; for speech recognition
Kannan et al., Large-scale multilingual speech recognition with a streaming end-to-end model, 2019,
arXiv:1909.05330, and Tomanek et al., Residual adapters for parameter-efficient ASR adaptation to atypical and
accented speech, 2021, arXiv:2109.06952.

Provenance: the equation, the zero W_up and the norm without task-owned weights follow the public code of the
same group (google/praxis) [code]; that the norm has no weights at all is our choice [ours].
"""

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from adaptkit.adapters.api import Adapter, AdapterConfig, Site
from adaptkit.adapters.per_task import TaskLinear


class Config(AdapterConfig):
    """Sizes of a residual adapter."""

    kind: Literal["residual"] = "residual"
    bottleneck: PositiveInt = Field(64, description="inner width R; 16 to 256 in the literature")


class Residual(Adapter):
    """y = x + W_up[k] relu(W_down[k] norm(x) + b_down[k]) + b_up[k], x a block's output and k the task.

    W_up is zero at birth, so an untrained adapter changes nothing. Numbers: K L (2 D R + R + D).
    """

    wants = frozenset({"block"})

    def __init__(self, config: Config, sites: Sequence[Site], num_tasks: int):
        super().__init__()
        self.down, self.up = nn.ModuleDict(), nn.ModuleDict()
        for site in (site for site in sites if site.kind in self.wants):
            self.down[site.key] = TaskLinear(num_tasks, site.dim_out, config.bottleneck)
            self.up[site.key] = TaskLinear(num_tasks, config.bottleneck, site.dim_out, zero=True)

    def adapt(self, site: Site, x_in: Tensor, x_out: Tensor) -> Tensor:
        """Add the bottleneck of each row's task to a block's output (B, U, D)."""
        normed = functional.layer_norm(x_out, x_out.shape[-1:])
        hidden = torch.relu(self.down[site.key](normed, self.task_ids))  # (B, U, R)
        return x_out + self.up[site.key](hidden, self.task_ids)


build = Residual
