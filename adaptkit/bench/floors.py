"""The least that a training step can cost: a forward pass, and back-propagation to activations alone."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from adaptkit.adapters.api import Adapter, AdapterConfig, AdapterStack
from adaptkit.adapters.kinds.full import Full
from adaptkit.adapters.site import Site
from adaptkit.base.checkpoint import BaseModel
from adaptkit.base.sites import attached
from adaptkit.base.weights import leaving_no_trace
from adaptkit.data.batches import Batch
from adaptkit.model.adapted import AdaptedModel


@dataclass(frozen=True)
class Floor:
    """The first place that an adapter changes, to which its gradients must be back-propagated.

    Without any, as beside the encoder, a forward pass is the floor.
    """

    site: Site | None

    @property
    def name(self) -> str:
        """A readable name."""
        if self.site is None:
            return "forward alone"
        if self.site.kind in ("bias", "weight"):
            return f"backward to {self.site.name}"
        return f"backward to block {self.site.block}, {self.site.kind}"

    def adapted(self, base: BaseModel) -> AdaptedModel:
        """Return a base model whose only trained weight is one that acts at the site."""
        if self.site is None:
            return AdaptedModel(base, is_frozen=True).train()
        is_weight = self.site.kind == "weight"
        member = Full([self.site], 1, per_task=False) if is_weight else _Constant(self.site)
        stack = AdapterStack([member], [AdapterConfig(kind="floor")], ["all"])
        return AdaptedModel(base, stack.to(next(base.model.parameters()).device)).train()


def find_floor(adapted: AdaptedModel, batch: Batch) -> Floor:
    """Find the first site whose output depends on trained weights, by a forward pass."""
    if adapted.taps:
        return Floor(None)
    inside = [member for member in adapted.adapters if member.changes_encoder]
    changed = [name for member in inside for name in member.differences(0)]
    if changed:
        first = next(site for site in adapted.sites if site.kind == "weight" and site.name in changed)
        return Floor(first)
    recorder = _Recorder(frozenset().union(*(member.wants for member in adapted.adapters)))
    stack = AdapterStack([*adapted.adapters, recorder], adapted.adapters.configs, adapted.adapters.tasks)
    with (
        leaving_no_trace(adapted.espnet),
        attached(adapted.espnet, stack, adapted.sites),
        stack.for_tasks(batch.task_ids, batch.inputs.device),
    ):
        adapted.espnet.encode(batch.inputs.clone(), batch.lengths)  # ESPnet modifies its input
    return Floor(recorder.first)


class _Constant(Adapter):
    """y = x + c at one site, with a scalar c that is zero at first."""

    def __init__(self, site: Site):
        super().__init__()
        self.site, self.wants = site, frozenset({site.kind})
        self.number = nn.Parameter(torch.zeros(()))

    def adapt(self, site: Site, x_in: Tensor, x_out: Tensor) -> Tensor:
        """Add the scalar to x_out (B, U, D) at its site."""
        return x_out + self.number.to(x_out.dtype) if site == self.site else x_out


class _Recorder(Adapter):
    """Note the first site whose output has a gradient, and change nothing."""

    def __init__(self, wants: frozenset[str]):
        super().__init__()
        self.wants, self.first = wants, None

    def adapt(self, site: Site, x_in: Tensor, x_out: Tensor) -> Tensor:
        """Look at an output (B, U, D)."""
        if self.first is None and x_out.requires_grad:
            self.first = site
        return x_out
