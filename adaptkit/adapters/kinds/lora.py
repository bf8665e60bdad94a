"""LoRA: low-rank differences to the linear maps of attention and feed-forward, one pair of matrices per task.

Hu et al., LoRA: Low-rank adaptation of large language models, 2021, arXiv:2106.09685.

Provenance: the equation, B initialised to zero and the factor alpha / R are the paper's [code]. A is
initialised as in the authors' library and in PEFT, Kaiming-uniform with a = sqrt(5), hence uniform within
+-1 / sqrt(D_in) [code]; the paper says Gaussian. Adapting all linear maps, not only query and value, and
leaving out dropout are our choice [ours].
"""

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

from adaptkit.adapters.api import Adapter, AdapterConfig
from adaptkit.adapters.fold import Added
from adaptkit.adapters.per_task import TaskLinear
from adaptkit.adapters.site import Site
from adaptkit.config import PositiveFloat, Width

Target = Literal["query", "key", "value", "out", "ffn_macaron_in", "ffn_macaron_out", "ffn_in", "ffn_out"]


class Config(AdapterConfig):
    """Rank, scale and targets of a low-rank adapter."""

    kind: Literal["lora"] = "lora"
    rank: Width = Field(8, description="rank R; 1 to 64 in the literature")
    alpha: PositiveFloat = Field(
        8.0, description="scale of the difference times R; Hu et al. set it to the first rank tried"
    )
    targets: tuple[Target, ...] = Field(
        get_args(Target),
        min_length=1,
        description="linear maps to adapt; those missing from the base model are skipped",
    )


class LoRA(Adapter):
    """y = W x + c + (alpha / R) B[k] A[k] x, with W x + c a linear map of the base and k the task.

    B is initialised to zero, so an untrained adapter changes nothing. Parameters: K R (D_in + D_out), summed
    over the linear maps; for all maps of L blocks with two feed-forwards of F units, K L R (12 D + 4 F).
    """

    def __init__(self, config: Config, sites: Sequence[Site], num_tasks: int):
        super().__init__()
        self.wants = frozenset(config.targets)
        self.sites = tuple(site for site in sites if site.kind in self.wants)
        self.scale = config.alpha / config.rank
        self.down, self.up = nn.ModuleDict(), nn.ModuleDict()
        for site in self.sites:
            sizes = (num_tasks, site.dim_in, config.rank)
            self.down[site.key] = TaskLinear(*sizes, has_bias=False, init=_draw_narrow)
            self.up[site.key] = TaskLinear(num_tasks, config.rank, site.dim_out, zero=True, has_bias=False)

    def adapt(self, site: Site, x_in: Tensor, x_out: Tensor) -> Tensor:
        """Add the low-rank map of x_in (B, U, D_in) for each row's task to x_out (B, U, D_out)."""
        x = x_in.to(x_out.dtype)  # as autocast does for the linear map of the base
        down, _ = self.down[site.key].of_rows(self.task_ids, x.dtype)
        up, _ = self.up[site.key].of_rows(self.task_ids, x.dtype)
        return _AddProduct.apply(x_out, x, down, self.scale * up)

    def fold(self, task: int) -> list[Added]:
        """Return (alpha / R) B[k] A[k] (D_out, D_in) for the weight of each linear map."""
        pairs = [(self.down[site.key].of(task), self.up[site.key].of(task)) for site in self.sites]
        products = [self.scale * (down["weight"] @ up["weight"]).T for down, up in pairs]
        return [Added(site, product) for site, product in zip(self.sites, products, strict=True)]


def _draw_narrow(weight: Tensor) -> None:
    """Initialise a task's A (D_in, R) by its fan-in."""
    nn.init.kaiming_uniform_(weight.T, a=math.sqrt(5))


class _AddProduct(torch.autograd.Function):
    """y + x A B in place, for y (B, U, D_out), x (B, U, D_in), A (B, D_in, R) and B (B, R, D_out).

    No linear map needs its output in the backward pass. That output is a view, however, and where a view is
    changed in place, autograd copies its gradient three times; here the gradient stays as it is. The operands
    of each product are in the order that is fastest on CPUs for a small R, by up to 4 times.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, y: Tensor, x: Tensor, down: Tensor, up: Tensor) -> Tensor:
        hidden = torch.bmm(x, down)  # (B, U, R)
        ctx.save_for_backward(x, down, up, hidden)
        return y.baddbmm_(hidden, up).detach()

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, down, up, hidden = ctx.saved_tensors
        narrow = torch.bmm(up, grad.mT).mT  # (B, U, R), the gradient of hidden
        of_x = torch.bmm(narrow, down.mT) if ctx.needs_input_grad[1] else None
        return grad, of_x, torch.bmm(narrow.mT, x).mT, torch.bmm(hidden.mT, grad)


build = LoRA
