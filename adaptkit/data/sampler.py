"""Plan training steps so that the batches of a task do not depend on the other tasks.

Each task has its own sequence of batches with `task_utterances` of its utterances. A step combines the next
such batch of as many tasks as fit. With a temperature of 1 the batches depend only on the name of the task,
the seed and the epoch, so that a task has the same batches in the same order with any other tasks. With any
other temperature their number depends on the sizes of all tasks.
"""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from adaptkit.data.dataset import Group

Batches = list[list[int]]  # utterances, by batch
_CLASSES = 20  # of lengths; those of a class count as equal, so that batches vary from epoch to epoch


@dataclass(frozen=True)
class StepLimits:
    """Limits on the size of batches and steps, and the sampling temperature."""

    batch_frames: int  # feature frames per batch, padding included
    accumulate: int  # batches per step
    task_utterances: int  # utterances of one task per step
    temperature: float  # for sampling tasks


@dataclass(frozen=True)
class TrainingSet:
    """The utterances of a training set, by index."""

    tasks: Mapping[str, Sequence[int]]  # utterances of each task
    lengths: Sequence[int]  # feature frames of each utterance
    groups: Sequence[Group]  # of each utterance; different groups may not share a batch


def count_visits(sizes: Mapping[str, int], temperature: float) -> dict[str, int]:
    """Return the number of utterances of each task per epoch: proportional to n^(1 / T), about sum n in all.

    With T = 1 every utterance is used once; with a large T all tasks are sampled equally often.

    >>> count_visits({"a": 90, "b": 10}, 1.0), count_visits({"a": 90, "b": 10}, 1e9)
    ({'a': 90, 'b': 10}, {'a': 50, 'b': 50})
    """
    if temperature == 1.0:
        return dict(sizes)
    weights = {task: size ** (1 / temperature) for task, size in sizes.items()}
    scale = sum(sizes.values()) / sum(weights.values())
    return {task: max(1, round(scale * weight)) for task, weight in weights.items()}


def own_batches(
    task: str, num_visits: int, data: TrainingSet, limits: StepLimits, *, seed: int, epoch: int
) -> Batches:
    """Plan the batches of one task in an epoch, each of utterances of similar length and the same group.

    No utterance is drawn more than once more often than another.
    """
    generator = random.Random(f"{seed} {epoch} {task}")
    drawn: list[int] = []
    while len(drawn) < num_visits:
        again = list(data.tasks[task])
        generator.shuffle(again)
        drawn += again[: num_visits - len(drawn)]
    lengths, groups = data.lengths, data.groups
    longest = max(lengths[index] for index in data.tasks[task])
    drawn.sort(key=lambda index: (groups[index], -(_CLASSES * lengths[index] // longest)))
    plan: Batches = []
    for index in drawn:
        length = lengths[index]
        longest = max(longest, length) if plan else length
        if not plan or not _fits(plan[-1], index, longest, data, limits):
            plan.append([])
            longest = length
        plan[-1].append(index)
    generator.shuffle(plan)
    return plan


def count_batches(
    task: str, num_visits: int, data: TrainingSet, limits: StepLimits, *, seed: int, num_epochs: int
) -> int:
    """Count the batches of one task over some epochs; they are drawn only if their number depends on that."""
    own = data.tasks[task]
    groups = Counter(data.groups[index] for index in own)
    times, more = divmod(num_visits, len(own))
    most = min(limits.task_utterances, num_visits)
    if most * max(data.lengths[index] for index in own) > limits.batch_frames or (more and len(groups) > 1):
        epochs = range(num_epochs)
        return sum(len(own_batches(task, num_visits, data, limits, seed=seed, epoch=e)) for e in epochs)
    sizes = [num_visits] if len(groups) == 1 else [times * size for size in groups.values()]
    return num_epochs * sum(-(-size // limits.task_utterances) for size in sizes)


def _fits(batch: Sequence[int], index: int, longest: int, data: TrainingSet, limits: StepLimits) -> bool:
    """Return whether an utterance fits into a batch whose longest utterance then has `longest` frames."""
    num = len(batch) + 1
    is_small = num <= limits.task_utterances and longest * num <= limits.batch_frames
    return is_small and data.groups[batch[0]] == data.groups[index]
