"""Packing of many tasks' batches into steps: as a search over all tasks would, but fast."""

import random
import time

import pytest

from adaptkit.data.packing import plan_steps
from adaptkit.data.sampler import StepLimits, TrainingSet, own_batches


def pack_by_search(own, data, limits):
    """Pack steps as `plan_steps` does, by ranking all tasks anew for each."""

    def longest(batch):
        return max(data.lengths[index] for index in batch)

    left = {task: list(batches) for task, batches in own.items() if batches}
    steps = []
    while left:
        behind = max(left, key=lambda task: len(left[task]))
        most, length = len(left[behind]), longest(left[behind][0])
        ranked = sorted(
            left.keys() - {behind},
            key=lambda task: (len(left[task]) < most - 1, abs(longest(left[task][0]) - length), task),
        )
        step = []
        for task in [behind, *ranked]:
            head = left[task][0]
            fitting = (
                batch
                for batch in step
                if longest([*batch, *head]) * len([*batch, *head]) <= limits.batch_frames
                and data.groups[batch[0]] == data.groups[head[0]]
            )
            place = next(fitting, None)
            if place is None and len(step) < limits.accumulate:
                step.append([])
                place = step[-1]
            if place is not None:
                place.extend(left[task].pop(0))
        steps.append(step)
        left = {task: batches for task, batches in left.items() if batches}
    return steps


def draw_set(seed):
    """Draw a training set and limits of any kind."""
    generator = random.Random(seed)
    sizes = [generator.randrange(1, 30) for _ in range(generator.choice([1, 2, 5, 30]))]
    tasks, num = {}, 0
    for number, size in enumerate(sizes):
        tasks[f"spk{generator.randrange(100)}-{number}"] = list(range(num, num + size))
        num += size
    lengths = [10 + generator.randrange(generator.choice([5, 90, 500])) for _ in range(num)]
    groups = [(generator.randrange(generator.choice([1, 1, 3])),) for _ in range(num)]
    frames, accumulate = generator.choice([100, 400, 1500, 6000]), generator.choice([1, 1, 2, 3])
    limits = StepLimits(frames, accumulate, generator.choice([1, 4, 8]), 1.0)
    return TrainingSet(tasks, lengths, groups), limits


@pytest.mark.parametrize("seed", range(40))
def test_steps_are_those_of_a_search_over_all_tasks(seed):
    data, limits = draw_set(seed)
    own = {t: own_batches(t, len(i), data, limits, seed=0, epoch=0) for t, i in data.tasks.items()}
    assert plan_steps(own, data, limits) == pack_by_search(own, data, limits)


def test_steps_are_those_of_a_search_if_every_task_is_a_group_of_its_own():
    data = TrainingSet(
        {f"spk{k}": [2 * k, 2 * k + 1] for k in range(20)}, range(50, 90), [(k // 2,) for k in range(40)]
    )
    own = {task: [[index] for index in indices] for task, indices in data.tasks.items()}
    for accumulate in (1, 4):
        limits = StepLimits(500, accumulate, 1, 1.0)
        assert plan_steps(own, data, limits) == pack_by_search(own, data, limits)


@pytest.mark.slow
def test_ten_thousand_speakers_are_planned_in_seconds():
    generator, num = random.Random(0), 10_000
    lengths = [generator.randrange(100, 1500) for _ in range(24 * num)]
    tasks = {f"spk{k:05}": range(24 * k, 24 * k + 24) for k in range(num)}
    data, limits = TrainingSet(tasks, lengths, [(0,)] * len(lengths)), StepLimits(12000, 1, 8, 1.0)
    started = time.process_time()
    own = {task: own_batches(task, 24, data, limits, seed=0, epoch=0) for task in tasks}
    steps = plan_steps(own, data, limits)
    assert time.process_time() - started < 5.0  # 1.5 s on an idle core; a search would take an hour
    assert sum(len(batch) for step in steps for batch in step) == len(lengths)
