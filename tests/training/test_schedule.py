"""The learning rate from step to step."""

import pytest

from adaptkit.training.schedule import choose_warmup, learning_rate


def rates(num_steps, total=None, **options):
    return [learning_rate(s, total or num_steps, peak=1.0, **options) for s in range(num_steps)]


def test_learning_rate_rises_linearly_to_its_peak():
    assert rates(4, 100, warmup_steps=4, schedule="constant") == [0.25, 0.5, 0.75, 1.0]


def test_a_constant_learning_rate_stays():
    assert rates(5, warmup_steps=2, schedule="constant")[2:] == [1.0, 1.0, 1.0]


def test_a_linear_learning_rate_would_be_zero_after_the_last_step():
    assert rates(7, 6, warmup_steps=2, schedule="linear") == [0.5, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0]


def test_a_cosine_learning_rate_is_half_way_in_the_middle():
    found = rates(9, 10, warmup_steps=2, schedule="cosine")
    assert found[2] == 1.0
    assert found[4] == pytest.approx(0.5 + 0.5 * 2**-0.5)  # a quarter of the way: 45 degrees
    assert found[6] == pytest.approx(0.5)


def test_an_inverse_root_learning_rate_halves_when_steps_are_four_times_the_warm_up():
    found = rates(16, 100, warmup_steps=4, schedule="inverse_sqrt")
    assert found[3] == 1.0
    assert found[15] == pytest.approx(0.5)


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine", "inverse_sqrt"])
def test_without_warm_up_training_starts_at_the_peak(schedule):
    found = rates(10, warmup_steps=0, schedule=schedule)
    assert found[0] == 1.0
    assert all(0 < rate <= 1 for rate in found)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_a_training_shorter_than_its_warm_up_only_rises(schedule):
    assert rates(3, warmup_steps=10, schedule=schedule) == pytest.approx([0.1, 0.2, 0.3])


@pytest.mark.parametrize(
    ("asked", "num_steps", "steps"), [(None, 9, 0), (None, 40, 4), (None, 10**4, 50), (7, 3, 7), (0, 99, 0)]
)
def test_a_warm_up_that_is_not_set_is_a_tenth_of_the_steps_but_at_most_50(asked, num_steps, steps):
    assert choose_warmup(asked, num_steps) == steps
