"""What validations have shown of a run, by task or of all together: its best ones, and what trials chose."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

WHOLE = ""  # in place of a task's name: the whole run, if early stopping is global


@dataclass(frozen=True)
class Standing:
    """The early-stopping state of a task, or of the whole run if tasks share trained weights."""

    best: list[list[float]] = field(default_factory=list)  # [metric, loss, step], best first; 0: the start
    waited: int = 0  # validations since the best one
    is_stopped: bool = False
    last: list[float] = field(default_factory=list)  # what was measured last (see `TaskFigures`), of a task

    def after(
        self,
        entry: list[float],
        *,
        average: int,
        patience: int | None,
        min_gain: float = 0.0,
        last: Sequence[float] = (),
    ) -> "Standing":
        """Return the state after a validation; it stops after `patience` validations without improvement.

        The best `average` validations are kept, and the start for as long as none of them is better by
        `min_gain`; any improvement ends the waiting.
        """
        ranked = sorted([*self.best, entry], key=lambda each: rank(each, min_gain))
        waited = 0 if min(ranked, key=rank) == entry else self.waited + 1
        best = [e for e in ranked if e[2] > 0][:average]
        if ranked[0][2] == 0:
            best = [ranked[0], *best]
        return Standing(best, waited, patience is not None and waited >= patience, list(last))

    @property
    def is_start(self) -> bool:
        """Whether no validation was better than that of the start."""
        return bool(self.best) and self.best[0][2] == 0

    @property
    def averaged(self) -> list[int]:
        """The steps whose weights are averaged at the end, best first; the start never is."""
        return [] if self.is_start else [int(step) for _, _, step in self.best]


def rank(entry: Sequence[float], min_gain: float = 0.0) -> list[float]:
    """Return the sort key of a validation, [metric, loss, step]: lower is better.

    Metric and loss of the start, step 0, count as lower by the fraction `min_gain`, so that a later
    validation has to be better by that much.
    """
    *figures, step = entry
    share = 1.0 if step else 1.0 - min_gain
    return [*(math.inf if math.isnan(figure) else share * figure for figure in figures), step]


@dataclass(frozen=True)
class Measured:
    """The validation after an epoch, 0 for the start, as sums that can be pooled (see `Validation.sums`)."""

    epoch: int
    sums: dict[str, list[float]]  # by task


def pack(validations: Sequence[Measured]) -> tuple[Tensor, dict[str, list]]:
    """Return the sums of validations (V, K, 4), nan for tasks without any, and their epochs and tasks."""
    tasks = sorted({task for each in validations for task in each.sums})
    missing = [math.nan] * 4
    rows = [[each.sums.get(task, missing) for task in tasks] for each in validations]
    sums = torch.tensor(rows, dtype=torch.float64).view(len(rows), len(tasks), 4)
    return sums, {"epochs": [each.epoch for each in validations], "tasks": tasks}


def unpack(sums: Tensor, described: Mapping[str, list]) -> list[Measured]:
    """Return the validations that `pack` was given."""
    return [
        Measured(epoch, {t: row for t, row in zip(described["tasks"], rows, strict=True) if row[3] > 0})
        for epoch, rows in zip(described["epochs"], sums.tolist(), strict=True)
    ]


@dataclass(frozen=True)
class Choice:
    """What trials chose for a task, or for all together: peak learning rate and number of epochs."""

    lr: float  # 0 where the start is kept
    epochs: int  # 0 where the start is kept
    at_start: list[float] = field(default_factory=list)  # [metric, loss]; empty without validation
    best: list[float] = field(default_factory=list)  # of this rate after these epochs
