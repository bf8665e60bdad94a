"""BitFit: fine-tuning of the bias terms only, one set per task.

Ben Zaken et al., BitFit: Simple parameter-efficient fine-tuning for transformer-based masked language-models,
2022, arXiv:2106.10199.

    Provenance: only the bias terms of the model are trained [abstract]. Which these are in a recogniser is
    our interpretation: the biases of linear maps, norms, convolutions and recurrent layers, also in CTC and
    decoder unless `parts` excludes them, but not the vectors u and v of relative attention (pos_bias_u,
    pos_bias_v; Dai et al., Transformer-XL, 2019, arXiv:1901.02860), which are not added to a map's output
    [ours]. The biases of keys are included, although the softmax cancels them. The base stays in eval():
    dropout is off and the BatchNorm statistics are fixed [ours].

    Cost: few parameters. The differences of linear maps, norms and convolutions in the encoder are added to
    their outputs, so that the rows of a batch may belong to any tasks; in bfloat16, those far smaller than
    the outputs are lost in rounding. Other biases are changed as the weights of `full` are.
"""

import re
from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field, StrictBool
from torch import Tensor
from torch.autograd.function import FunctionCtx

from adaptkit.adapters.api import AdapterConfig
from adaptkit.adapters.fold import Added
from adaptkit.adapters.kinds.full import Full, Parts, choose_parts
from adaptkit.adapters.site import Site
from adaptkit.errors import ConfigError

_BIAS = re.compile(r"bias|bias_[ih]h(_l\d+)?(_reverse)?")  # the longer ones in recurrent nets


class Config(AdapterConfig):
    """Which biases are fine-tuned, and whether separately for each task."""

    kind: Literal["bitfit"] = "bitfit"
    parts: Parts = Field(None, description="top-level modules: encoder, ctc, decoder, ...; null for all")
    per_task: StrictBool = Field(True, description="one set per task; false: one set for all tasks")


class BitFit(Full):
    """b + d[k] in place of each bias b, with k the task; b + d with `per_task: false`, as `full` does it.

    d is initialised to zero, so an untrained adapter changes nothing. Parameters: K P, or P with
    `per_task: false`, for P biases in the chosen parts.
    """

    def __init__(self, weights: Sequence[Site], outputs: Sequence[Site], num_tasks: int):
        super().__init__(weights, num_tasks, per_task=True)
        by_name = {site.name: site for site in weights}
        self.outputs = {site: by_name.pop(site.bias).key for site in outputs if site.bias in by_name}
        self.wants = frozenset({"bias"} if self.outputs else ()) | frozenset({"weight"} if by_name else ())
        self.changes_encoder = any(site.in_encoder for site in by_name.values())

    def adapt(self, site: Site, x_in: Tensor, x_out: Tensor) -> Tensor:
        """Add the difference of each row's task to x_out (B, U, D), an output that includes the bias."""
        rows = self.tables.of_row_tasks(self.outputs[site], self.task_ids)
        return _AddRows.apply(x_out, rows[:, None].to(x_out.dtype))

    def differences(self, task: int) -> dict[str, Tensor]:
        """Return a task's difference to each bias that is not added to an output, by the bias's name."""
        added = {site.bias for site in self.outputs}
        return {name: own for name, own in super().differences(task).items() if name not in added}

    def fold(self, task: int) -> list[Added]:
        """Return d[k] for each bias that is added to an output."""
        own = self.tables.of(task)
        return [Added(site, bias=own[key]) for site, key in self.outputs.items()]


class _AddRows(torch.autograd.Function):
    """y + d in place, for y (B, U, D) and d (B, 1, D).

    No linear map, norm or convolution needs its output in the backward pass. That output may be a view, and
    where a view is changed in place, autograd copies its gradient; here the gradient stays as it is.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, y: Tensor, d: Tensor) -> Tensor:
        return y.add_(d).detach()

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, Tensor]:
        return grad, grad.sum(1, keepdim=True)


def build(config: Config, sites: Sequence[Site], num_tasks: int) -> Full:
    """Build the differences of all biases of the base, or those of `parts`."""
    weights = choose_parts(sites, config.parts)
    biases = [site for site in weights if _BIAS.fullmatch(site.name.rpartition(".")[2])]
    if weights and not biases:
        raise ConfigError("parts: no parameter there is a bias; choose other parts, or the adapter type full")
    if not config.per_task:
        return Full(biases, num_tasks, per_task=False)
    return BitFit(biases, [site for site in sites if site.kind == "bias"], num_tasks)
