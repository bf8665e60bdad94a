"""Which utterances of which tasks go into each step of training, so that a task's own steps are its own.

A task has batches of its own: `task_utterances` of its utterances at a time, in an order of their own. A
step takes the next such batch of as many tasks as fit. With a temperature of 1 they are drawn from the task's
name, the seed and the epoch alone, so a task sees the same batches in the same order whatever other tasks
there are. With any other temperature their number depends on the sizes of all tasks.
"""

import random
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from adaptkit.data.dataset import Group

Batches = list[list[int]]  # of a step: the utterances that go through the model together
_CLASSES = 20  # of length; lengths of one class count as equal, so that neighbours change from epoch to epoch


@dataclass(frozen=True)
class Limits:
    """How much goes together."""

    batch_frames: int  # feature frames of a batch, padding included
    accumulate: int  # batches of a step
    task_utterances: int  # utterances of one task in a step
    temperature: float  # of how often tasks are drawn


@dataclass(frozen=True)
class Set:
    """What is planned: the utterances of a training set by index."""

    tasks: Mapping[str, Sequence[int]]  # those of each task
    lengths: Sequence[int]  # feature frames of each
    groups: Sequence[Group]  # unequal ones may not share a batch


def count_visits(sizes: Mapping[str, int], temperature: float) -> dict[str, int]:
    """Say how many utterances of each task an epoch has: in proportion to n^(1 / T), about sum n in all.

    With T = 1 every utterance comes once, with a large T all tasks come equally often.

    >>> count_visits({"a": 90, "b": 10}, 1.0), count_visits({"a": 90, "b": 10}, 1e9)
    ({'a': 90, 'b': 10}, {'a': 50, 'b': 50})
    """
    if temperature == 1.0:
        return dict(sizes)
    weights = {task: size ** (1 / temperature) for task, size in sizes.items()}
    scale = sum(sizes.values()) / sum(weights.values())
    return {task: max(1, round(scale * weight)) for task, weight in weights.items()}


def own_batches(task: str, num_visits: int, data: Set, limits: Limits, *, seed: int, epoch: int) -> Batches:
    """Plan the batches of a task's own in an epoch: utterances of similar length and equal group together.

    Utterances that are drawn more often than others come at most once more.
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


def plan_steps(own: Mapping[str, Batches], data: Set, limits: Limits) -> list[list[Batches]]:
    """Plan the steps of an epoch from each task's own batches, at most one of each task in a step.

    A step is filled up with the own batches nearest in length to that of the task that is furthest behind, of
    tasks about as far behind, then of any.
    """
    queues = {task: deque(batches) for task, batches in own.items() if batches}
    steps = []
    while queues:
        behind = max(queues, key=lambda task: len(queues[task]))
        step = _fill_step(queues, behind, data, limits)
        steps.append(step)
        queues = {task: queue for task, queue in queues.items() if queue}
    return steps


def _fill_step(queues: Mapping[str, deque[list[int]]], behind: str, data: Set, limits: Limits) -> Batches:
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


def _find_place(own: Sequence[int], step: Batches, data: Set, limits: Limits) -> list[int] | None:
    """Give a batch of the step that takes a task's own, a new one where one may be begun, or None."""
    for batch in step:
        fits = _frames([*batch, *own], data) <= limits.batch_frames
        if fits and data.groups[batch[0]] == data.groups[own[0]]:
            return batch
    if len(step) == limits.accumulate:
        return None
    step.append([])
    return step[-1]


def _fits(batch: Sequence[int], data: Set, limits: Limits) -> bool:
    is_one_group = data.groups[batch[0]] == data.groups[batch[-1]]
    is_small = len(batch) <= limits.task_utterances and _frames(batch, data) <= limits.batch_frames
    return is_one_group and is_small


def _frames(batch: Sequence[int], data: Set) -> int:
    return _longest(batch, data) * len(batch)


def _longest(batch: Sequence[int], data: Set) -> int:
    return max(data.lengths[index] for index in batch)
