"""Training cost of one job for all speakers compared with one job each: `adaptkit submodels cost`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from adaptkit.errors import ConfigError, listed
from adaptkit.folders import RunFolder
from adaptkit.records import RunRecord
from adaptkit.tables import aligned


@dataclass(frozen=True)
class TrainingCost:
    """The total time of some training jobs."""

    num_jobs: float
    num_tasks: int
    cpu_seconds: float  # of the processes, including start-up and validation
    train_seconds: float  # of the training steps only

    def scaled(self, num_tasks: int) -> "TrainingCost":
        """Extrapolate the cost to another number of tasks."""
        factor = num_tasks / self.num_tasks
        return TrainingCost(
            self.num_jobs * factor, num_tasks, self.cpu_seconds * factor, self.train_seconds * factor
        )


def read(folders: Sequence[Path]) -> TrainingCost:
    """Sum the costs in the records of finished trainings."""
    records = [RunRecord.read(RunFolder(folder).record) for folder in folders]
    idle = [str(folder) for folder, r in zip(folders, records, strict=True) if not r.tasks]
    if idle:
        raise ConfigError(f"{listed(idle)}: trains no speaker; name the folders of adapters")
    uncounted = [(str(folder), r) for folder, r in zip(folders, records, strict=True) if not r.cpu_seconds]
    packed = [folder for folder, record in uncounted if record.is_packed]
    if packed:
        raise ConfigError(
            f"{listed(packed)}: packed from Submodels, which has no training cost; name the experiment from "
            "which they were exported"
        )
    if uncounted:
        unknown = listed(folder for folder, _ in uncounted)
        raise ConfigError(f"{unknown}: no CPU seconds in run.json; train it again")
    return TrainingCost(
        num_jobs=len(records),
        num_tasks=sum(len(record.tasks) for record in records),
        cpu_seconds=sum(record.cpu_seconds for record in records),
        train_seconds=sum(record.train_seconds for record in records),
    )


def format_cost(one: TrainingCost, each: TrainingCost) -> str:
    """Format the cost of one job and of single jobs, extrapolated to all tasks, and their ratios."""
    all_of_them = each.scaled(one.num_tasks)
    rows = [["", "jobs", "speakers", "CPU seconds", "ratio", "seconds of steps", "ratio"]]
    for name, cost in (("one job", one), ("single jobs", each), ("single jobs for all", all_of_them)):
        ratios = (cost.cpu_seconds / one.cpu_seconds, cost.train_seconds / one.train_seconds)
        shown = [f"{ratio:.2f}" if cost.num_tasks == one.num_tasks else "" for ratio in ratios]
        figures = [f"{cost.cpu_seconds:,.0f}", shown[0], f"{cost.train_seconds:,.0f}", shown[1]]
        rows.append([name, f"{cost.num_jobs:.0f}", str(cost.num_tasks), *figures])
    return aligned(rows)
