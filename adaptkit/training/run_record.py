"""Leave the record of a run, `run.json`: of one that was trained here, or of what decodes without that."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from adaptkit import records
from adaptkit.adapters.api import AdapterStack
from adaptkit.adapters.per_task import numbers_per_task
from adaptkit.base.checkpoint import BaseModel
from adaptkit.experiment import Training
from adaptkit.training.state import State


@dataclass(frozen=True)
class Recorded:
    """What a run made, as its record tells it."""

    name: str  # of the experiment
    kind: str
    tasks: Sequence[str]
    num_trainable: int
    num_per_task: int

    @classmethod
    def whole(cls, name: str, stack: AdapterStack) -> "Recorded":
        """Describe adapters all of which the run made."""
        num_trainable = sum(parameter.numel() for parameter in stack.parameters())
        return cls(name, stack.kind, stack.tasks, num_trainable, numbers_per_task(stack))


def write_record(
    folder: Path,
    base: BaseModel,
    made: Recorded,
    state: State | None = None,
    training: Training | None = None,
) -> None:
    """Leave `run.json` for the report, with what `state` says the run took.

    `training` holds the options of a run that this process trained. Without `state` nothing was made here.
    """
    stands = state or State()
    records.RunRecord(
        name=made.name,
        kind=made.kind,
        tasks=list(made.tasks),
        base_fingerprint=base.fingerprint,
        params_base=base.num_parameters,
        params_trainable=made.num_trainable,
        params_per_task=made.num_per_task,
        train_seconds=stands.seconds,
        peak_mb=records.peak_memory_mb() if state else 0.0,
        epochs=stands.epoch,
        steps=stands.step,
        seed=training.seed if training else 0,
        versions=records.collect_versions(),
        commit=records.find_commit(),
        command=records.command_line(),
        cpu_seconds=time.process_time() if training else 0.0,
    ).write(folder / "run.json")
