"""Plan training steps so that the batches of a task do not depend on the other tasks.

Each task has its own sequence of batches with `task_utterances` of its utterances. A step combines the next
such batch of as many tasks as fit. With a temperature of 1 the batches depend only on the name of the task,
the seed and the epoch, so a task sees the same batches in the same order whatever other tasks there are. With
any other temperature their number depends on the sizes of all tasks.
"""

import random
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from adaptkit.data.dataset import Group

Batches = list[list[int]]  # utterances, by batch
_CLASSES = 20  # of length; lengths of a class count as equal, so that batches vary from epoch to epoch


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

    The numbers of times that two utterances are drawn differ by at most one.
    """
    generator = random.Random(f"{seed} {epoch} {task}")
    drawn: list[int] = []
    while len(drawn) < num_visits:
        again = list(data.tasks[task])
        generator.shuffle(again)
        drawn += again[: num_visits - len(drawn)]
    longest = max(data.lengths[index] for index in data.tasks[task])
    drawn.sort(key=lambda index: (data.groups[index], -(_CLASSES * data.lengths[index] // longest)))
    plan: Batches = []
    for index in drawn:
        if not plan or not _fits([*plan[-1], index], data, limits):
            plan.append([])
        plan[-1].append(index)
    generator.shuffle(plan)
    return plan


def plan_steps(own: Mapping[str, Batches], data: TrainingSet, limits: StepLimits) -> list[list[Batches]]:
    """Plan the steps of an epoch from each task's batches, at most one of each task in a step.

    A step begins with the task that has most batches left, and is filled with the batches closest to it in
    length: first those of tasks with about as many left, then of any task.
    """
    queues = {task: deque(batches) for task, batches in own.items() if batches}
    steps = []
    while queues:
        behind = max(queues, key=lambda task: len(queues[task]))
        step = _fill_step(queues, behind, data, limits)
        steps.append(step)
        queues = {task: queue for task, queue in queues.items() if queue}
    return steps


def _fill_step(
    queues: Mapping[str, deque[list[int]]], behind: str, data: TrainingSet, limits: StepLimits
) -> Batches:
    left, length = len(queues[behind]), _longest(queues[behind][0], data)

    def rank(task: str) -> tuple[bool, int, str]:
        distance = abs(_longest(queues[task][0], data) - length)
        return len(queues[task]) < left - 1, distance, task

    step: Batches = []
    for task in [behind, *sorted(queues.keys() - {behind}, key=rank)]:
        place = _find_place(queues[task][0], step, data, limits)
        if place is not None:
            place.extend(queues[task].popleft())
    return step


def _find_place(own: Sequence[int], step: Batches, data: TrainingSet, limits: StepLimits) -> list[int] | None:
    """Return a batch of the step with room for a task's batch, a new one if allowed, or None."""
    for batch in step:
        fits = _frames([*batch, *own], data) <= limits.batch_frames
        if fits and data.groups[batch[0]] == data.groups[own[0]]:
            return batch
    if len(step) == limits.accumulate:
        return None
    step.append([])
    return step[-1]


def _fits(batch: Sequence[int], data: TrainingSet, limits: StepLimits) -> bool:
    is_one_group = data.groups[batch[0]] == data.groups[batch[-1]]
    is_small = len(batch) <= limits.task_utterances and _frames(batch, data) <= limits.batch_frames
    return is_one_group and is_small


def _frames(batch: Sequence[int], data: TrainingSet) -> int:
    return _longest(batch, data) * len(batch)


def _longest(batch: Sequence[int], data: TrainingSet) -> int:
    return max(data.lengths[index] for index in batch)
