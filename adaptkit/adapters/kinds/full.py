"""Full fine-tuning as differences to the base parameters, the reference that adapters are compared with.

Tomanek et al., Residual adapters for parameter-efficient ASR adaptation to atypical and accented speech,
2021, arXiv:2109.06952, compare it with adapters for speech recognition.

Provenance: standard fine-tuning with three differences [ours]. The base stays in eval(), so dropout is off
and the BatchNorm statistics are fixed. Weight decay pulls the weights towards those of the base rather than
towards zero, as in Li et al., Explicit inductive bias for transfer learning with convolutional networks,
2018, arXiv:1802.01483. Every batch holds a single task, unless only parts after the encoder are trained.

    Cost: for K tasks, the differences, their gradients (zeros for absent tasks) and AdamW's two moments each
    take K times the size of the base. A forward pass makes one more copy of the changed parameters, and uses
    a single set of differences; parts after the encoder run once for each task of a batch.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field, StrictBool
from torch import Tensor, nn

from adaptkit.adapters.api import Adapter, AdapterConfig
from adaptkit.adapters.fold import Added
from adaptkit.adapters.per_task import TaskDifferences
from adaptkit.adapters.site import Site
from adaptkit.errors import ConfigError, listed

Parts = Annotated[tuple[str, ...], Field(min_length=1)] | None  # top-level modules of an ESPnet model


class Config(AdapterConfig):
    """Which parameters are fine-tuned, and whether separately for each task."""

    kind: Literal["full"] = "full"
    parts: Parts = Field(None, description="top-level modules: encoder, ctc, decoder, ...; null for all")
    per_task: StrictBool = Field(
        True, description="one copy per task; false: one for all (pooled fine-tuning)"
    )


class Full(Adapter):
    """W + D[k] in place of each parameter W at `sites`, with k the task; W + D with `per_task: false`.

    D is initialised to zero, so an untrained adapter changes nothing. Parameters: K P, or P with
    `per_task: false`, for P parameters in the chosen parts.
    """

    wants = frozenset({"weight"})

    def __init__(self, sites: Sequence[Site], num_tasks: int, *, per_task: bool):
        super().__init__()
        self.per_task = per_task
        self.changes_encoder = any(site.in_encoder for site in sites)
        self.spares_encoder = not self.changes_encoder
        self.names = {site.key: site.name for site in sites}
        shapes = {site.key: site.shape for site in sites}
        if per_task:
            self.tables = TaskDifferences(num_tasks, shapes)
        else:
            self.tables = nn.ParameterDict({key: torch.zeros(shape) for key, shape in shapes.items()})

    def group(self, task: int) -> int:
        """Return the task itself, or 0 if all tasks share the differences."""
        return task if self.per_task else 0

    def differences(self, task: int) -> dict[str, Tensor]:
        """Return a task's difference to each parameter, by the parameter's name in the base model."""
        own = self.tables.of(task) if self.per_task else self.tables
        return {self.names[key]: difference for key, difference in own.items()}

    def fold(self, task: int) -> Sequence[Added]:
        """Return nothing more: `differences` are changes to the base model's weights already."""
        return ()


def build(config: Config, sites: Sequence[Site], num_tasks: int) -> Full:
    """Build W + D[k] for all parameters of the base, or those of `parts`."""
    return Full(choose_parts(sites, config.parts), num_tasks, per_task=config.per_task)


def choose_parts(sites: Sequence[Site], parts: Parts) -> list[Site]:
    """Return the parameters of some top-level parts of the base, or of all; an unknown part is refused."""
    by_part: dict[str, list[Site]] = {}
    for site in sites:
        if site.kind == "weight":
            by_part.setdefault(site.name.partition(".")[0], []).append(site)
    unknown = [part for part in parts or () if by_part and part not in by_part]
    if unknown:
        raise ConfigError(f"parts: this base model has no {listed(unknown)}; it has {listed(by_part)}")
    return [site for part, own in by_part.items() if parts is None or part in parts for site in own]
