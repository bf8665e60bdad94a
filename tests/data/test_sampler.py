"""Which utterances of which tasks go into each step."""

from collections import Counter
from dataclasses import replace

import pytest

from adaptkit.data.packing import plan_steps
from adaptkit.data.sampler import StepLimits, TrainingSet, count_batches, count_visits, own_batches

SIZES = {"spk1": 23, "spk10": 7, "spk2": 1, "a b": 40}
LENGTHS = [30 + 37 * index % 90 for index in range(sum(SIZES.values()))]
LIMITS = StepLimits(batch_frames=600, accumulate=2, task_utterances=4, temperature=1.0)


def set_of(sizes, lengths=LENGTHS, groups=None):
    tasks, start = {}, 0
    for task, size in sizes.items():
        tasks[task] = list(range(start, start + size))
        start += size
    return TrainingSet(tasks, lengths, groups or [()] * len(lengths))


DATA = set_of(SIZES)


def own_of(data=DATA, limits=LIMITS, epoch=0, seed=0):
    """The own batches of every task."""
    visits = count_visits({task: len(own) for task, own in data.tasks.items()}, limits.temperature)
    return {t: own_batches(t, n, data, limits, seed=seed, epoch=epoch) for t, n in visits.items()}


def flat(plan):
    return [index for batch in plan for index in batch]


def task_of(data):
    return {index: task for task, own in data.tasks.items() for index in own}


def split(step, data=DATA):
    """What a step holds of each task, in order."""
    parts = {}
    for index in flat(step):
        parts.setdefault(task_of(data)[index], []).append(index)
    return parts


def frames(batch, data=DATA):
    return len(batch) * max(data.lengths[index] for index in batch)


# how often


def test_every_utterance_comes_once_an_epoch():
    steps = plan_steps(own_of(), DATA, LIMITS)
    assert sorted(index for step in steps for index in flat(step)) == list(range(len(LENGTHS)))


@pytest.mark.parametrize(
    ("temperature", "expected"), [(1.0, [16, 4, 1]), (2.0, [12, 6, 3]), (1e9, [7, 7, 7])]
)
def test_visits_go_with_the_size_to_the_one_over_t(temperature, expected):
    visits = count_visits({"a": 16, "b": 4, "c": 1}, temperature)
    assert list(visits.values()) == expected  # 21 in all; with T = 2 as 4 : 2 : 1


def test_a_task_is_visited_at_least_once():
    assert count_visits({"large": 10**6, "small": 1}, 0.5)["small"] == 1


def test_no_utterance_is_drawn_twice_more_than_another():
    plan = own_batches("spk10", 17, DATA, LIMITS, seed=0, epoch=0)  # 7 utterances
    counts = Counter(flat(plan))
    assert sorted(counts.values()) == [2, 2, 2, 2, 3, 3, 3]
    assert set(counts) == set(DATA.tasks["spk10"])


def test_which_utterances_a_large_task_leaves_out_changes_with_the_epoch():
    first, second = (
        set(flat(own_batches("a b", 20, DATA, LIMITS, seed=0, epoch=epoch))) for epoch in range(2)
    )
    assert len(first) == len(second) == 20
    assert first != second


# a task's own batches


@pytest.mark.parametrize("task", SIZES)
def test_own_batches_do_not_depend_on_other_tasks(task):
    alone = set_of({task: SIZES[task]}, [LENGTHS[index] for index in DATA.tasks[task]])
    found = own_batches(task, SIZES[task], alone, LIMITS, seed=0, epoch=3)
    expected = own_batches(task, SIZES[task], DATA, LIMITS, seed=0, epoch=3)
    first = DATA.tasks[task][0]
    assert [[first + index for index in batch] for batch in found] == expected


def test_own_batches_hold_at_most_task_utterances_and_batch_frames():
    for limits in (LIMITS, replace(LIMITS, task_utterances=100), replace(LIMITS, batch_frames=250)):
        for plan in own_of(limits=limits).values():
            assert all(len(batch) <= limits.task_utterances for batch in plan)
            assert all(frames(batch) <= limits.batch_frames for batch in plan)


def test_an_utterance_longer_than_a_batch_is_one_of_its_own():
    limits = replace(LIMITS, batch_frames=50)
    steps = plan_steps(own_of(limits=limits), DATA, limits)
    assert sorted(index for step in steps for index in flat(step)) == list(range(len(LENGTHS)))
    assert all(len(batch) == 1 or frames(batch) <= 50 for step in steps for batch in step)


def test_own_batches_are_of_similar_length():
    plan = own_of(limits=replace(LIMITS, batch_frames=10**6))["a b"]
    ranges = [max(own) - min(own) for own in ([LENGTHS[index] for index in batch] for batch in plan)]
    assert max(ranges) < (max(LENGTHS) - min(LENGTHS)) / 3


@pytest.mark.parametrize("change", [{"epoch": 1}, {"seed": 1}])
def test_another_epoch_or_seed_is_another_order(change):
    assert own_of() == own_of()
    assert own_of(**change)["spk1"] != own_of()["spk1"]


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("changes", [{}, {"batch_frames": 250}, {"task_utterances": 100}])
@pytest.mark.parametrize("num_groups", [1, 3])
def test_batches_are_counted_as_they_are_drawn(temperature, changes, num_groups):
    limits = replace(LIMITS, temperature=temperature, **changes)
    data = set_of(SIZES, groups=[(index % num_groups,) for index in range(len(LENGTHS))])
    drawn = [own_of(data, limits, epoch=epoch) for epoch in range(3)]
    visits = count_visits({task: len(own) for task, own in data.tasks.items()}, temperature)
    for task, num in visits.items():
        count = count_batches(task, num, data, limits, seed=0, num_epochs=3)
        assert count == sum(len(own[task]) for own in drawn)


# steps


@pytest.mark.parametrize("accumulate", [1, 2, 5])
def test_steps_keep_the_order_of_every_tasks_own_batches(accumulate):
    own, limits = own_of(), replace(LIMITS, accumulate=accumulate)
    taken = {task: [] for task in own}
    for step in plan_steps(own, DATA, limits):
        for task, indices in split(step).items():
            taken[task].append(indices)
    assert taken == own


def test_a_step_takes_at_most_one_own_batch_of_a_task_and_keeps_it_together():
    own = {tuple(batch) for plan in own_of().values() for batch in plan}
    for step in plan_steps(own_of(), DATA, LIMITS):
        assert all(tuple(indices) in own for indices in split(step).values())
        assert all(len({tuple(part) for part in split([batch]).values()} - own) == 0 for batch in step)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_step_keeps_its_limits(accumulate):
    steps = plan_steps(own_of(), DATA, replace(LIMITS, accumulate=accumulate))
    assert all(1 <= len(step) <= accumulate for step in steps)
    assert all(frames(batch) <= LIMITS.batch_frames for step in steps for batch in step)


def test_utterances_of_unequal_groups_share_no_batch():
    groups = [(index % 2,) for index in range(len(LENGTHS))]
    data = set_of(SIZES, groups=groups)
    steps = plan_steps(own_of(data), data, LIMITS)
    assert all(len({groups[index] for index in batch}) == 1 for step in steps for batch in step)
    assert sorted(index for step in steps for index in flat(step)) == list(range(len(LENGTHS)))


def test_batches_are_filled_across_tasks():
    sizes = dict.fromkeys("abcdefgh", 4)
    data = set_of(sizes, [50] * 32)
    steps = plan_steps(own_of(data), data, replace(LIMITS, batch_frames=800, accumulate=1))
    assert [len(flat(step)) for step in steps] == [16, 16]  # 800 frames
    assert all(len(split(step, data)) == 4 for step in steps)


def test_there_are_as_many_steps_as_the_largest_task_has_batches_where_there_is_room():
    limits = replace(LIMITS, batch_frames=10**6)
    assert len(plan_steps(own_of(limits=limits), DATA, limits)) == len(own_of(limits=limits)["a b"]) == 10


def test_without_tasks_there_are_no_steps():
    assert plan_steps({}, DATA, LIMITS) == []
