"""Choose learning rates and numbers of epochs by the validations of trials, per speaker or for all."""

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from adaptkit.errors import counted
from adaptkit.files import write_text
from adaptkit.training.standing import WHOLE, Choice, Measured, rank
from adaptkit.training.validation import Metric, pool

Curve = dict[int, dict[str, list[float]]]  # sums of a validation, by epoch and task
_Figures = dict[float, dict[int, list[float]]]  # [metric, loss], by learning rate and epoch


def join(trials: Iterable[Sequence[Measured]]) -> Curve:
    """Add up the validations of trials of one learning rate that held out different utterances."""
    curve: Curve = {}
    for measured in (measured for validations in trials for measured in validations):
        pooled = curve.setdefault(measured.epoch, {})
        for task, sums in measured.sums.items():
            known = pooled.get(task, [0.0] * len(sums))
            pooled[task] = [before + more for before, more in zip(known, sums, strict=True)]
    return curve


def choose(
    curves: Mapping[float, Curve], tasks: Sequence[str], *, metric: Metric, by_task: bool, min_gain: float
) -> dict[str, Choice]:
    """Return the best choice for all tasks together (WHOLE), and that of each task.

    A choice is a learning rate and a number of epochs, or the start. With `by_task` each task has its own;
    without, and for tasks that no trial validated, it is the choice for all.
    """
    overall = _find_best(
        {
            lr: {epoch: pool(metric, own.values()) for epoch, own in curve.items()}
            for lr, curve in curves.items()
        },
        min_gain,
    )
    choices = {WHOLE: overall}
    for task in tasks:
        figures = {
            lr: {epoch: pool(metric, [own[task]]) for epoch, own in curve.items() if task in own}
            for lr, curve in curves.items()
        }
        if not all(figures.values()):
            choices[task] = replace(overall, at_start=[], best=[])
        elif by_task:
            choices[task] = _find_best(figures, min_gain)
        else:
            choices[task] = _read_off(figures, overall.lr, overall.epochs)
    return choices


def _find_best(figures: _Figures, min_gain: float) -> Choice:
    """Return the best learning rate and epoch; of equal ones the start, then the lowest rate."""
    ranked = [
        (*rank([*value, epoch], min_gain)[:2], lr if epoch else 0.0, epoch)
        for lr, curve in figures.items()
        for epoch, value in curve.items()
    ]
    *_, lr, epoch = min(ranked)
    return _read_off(figures, lr, epoch)


def _read_off(figures: _Figures, lr: float, epochs: int) -> Choice:
    """Return a choice with its figures; the start has the same ones in trials of every rate."""
    any_curve = next(iter(figures.values()))
    return Choice(lr, epochs, any_curve[0], figures.get(lr, any_curve)[epochs])


def summarise(choices: Mapping[str, Choice]) -> dict[str, dict[str, int]]:
    """Count the speakers by learning rate (without those that keep the start) and by number of epochs.

    >>> summarise({"a": Choice(0.01, 4), "b": Choice(0.01, 2), "c": Choice(0.0, 0), "": Choice(0.01, 3)})
    {'lr': {'0.01': 2}, 'epochs': {'0': 1, '2': 1, '4': 1}}
    """
    own = [choice for task, choice in choices.items() if task != WHOLE]
    counts = {"lr": Counter(c.lr for c in own if c.epochs), "epochs": Counter(c.epochs for c in own)}
    return {
        name: {str(value): count for value, count in sorted(counted.items())}
        for name, counted in (counts.items() if own else ())
    }


def describe(choices: Mapping[str, Choice]) -> str:
    """Describe what was chosen in a line, for any number of speakers.

    >>> describe({"a": Choice(0.01, 4), "b": Choice(0.01, 2), "c": Choice(0.0, 0), "": Choice(0.01, 3)})
    '3 speakers: lr 0.01 for 2, the start for 1; epochs 2 to 4, median 2'
    """
    own = [choice for task, choice in choices.items() if task != WHOLE]
    epochs = [choice.epochs for choice in own if choice.epochs]
    parts = [f"lr {lr} for {count}" for lr, count in summarise(choices).get("lr", {}).items()]
    if len(epochs) < len(own):
        parts.append(f"the start for {len(own) - len(epochs)}")
    chosen = f"{counted(len(own), 'speaker')}: {', '.join(parts)}"
    if not epochs:
        return chosen
    if min(epochs) == max(epochs):
        return f"{chosen}; epochs {epochs[0]}"
    return f"{chosen}; epochs {min(epochs)} to {max(epochs)}, median {statistics.median_low(epochs)}"


def write_table(path: Path, choices: Mapping[str, Choice], metric: Metric) -> None:
    """Write what was chosen for each speaker, with the metric and loss of the start and of the choice."""
    head = ("speaker", "lr", "epochs", "metric", "at_start", "best", "loss_at_start", "loss_best")
    rows = [head, *(_cells(task, choice, metric) for task, choice in choices.items() if task != WHOLE)]
    write_text(path, "".join("\t".join(row) + "\n" for row in rows))


def _cells(task: str, choice: Choice, metric: Metric) -> list[str]:
    figures = list(zip(choice.at_start, choice.best, strict=True)) or [("-", "-")] * 2
    shown = [f"{value:.6g}" if isinstance(value, float) else value for pair in figures for value in pair]
    return [task, f"{choice.lr:g}" if choice.epochs else "-", str(choice.epochs), metric, *shown]
