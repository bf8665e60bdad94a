"""Resampling of error counts, against closed forms."""

import time

import numpy as np
import pytest

from adaptkit.scoring import bootstrap


def rates(values, speakers, seed=0):
    sums = bootstrap.resample(np.array(values), speakers, seed)
    return sums[:, 0] / sums[:, 1]


def test_one_speaker_has_the_standard_error_of_a_mean():
    errors = np.random.default_rng(1).integers(0, 10, size=400)
    samples = rates(np.stack([errors, np.ones(400, int)], axis=1), ["bob"] * 400)
    assert samples.std() == pytest.approx(errors.std() / np.sqrt(400), rel=0.1)


def test_speakers_who_differ_widen_the_interval():
    values = [(0, 1)] * 200 + [(1, 1)] * 200
    names = ["ann"] * 200 + ["bob"] * 200
    assert rates(values, names).std() > 10 * rates(values, ["one"] * 400).std()


def test_alike_utterances_leave_the_spread_of_speakers():
    values = [(0, 1)] * 50 + [(1, 1)] * 50
    samples = rates(values, ["ann"] * 50 + ["bob"] * 50)
    assert samples.std() == pytest.approx(np.sqrt(0.5 * 0.5 / 2), rel=0.05)  # two draws of ann or bob
    assert set(samples) == {0.0, 0.5, 1.0}


def test_resample_draws_as_many_utterances_as_there_are_where_speakers_have_equally_many():
    sums = bootstrap.resample(np.ones((60, 1), int), ["a", "b", "c"] * 20, seed=3)
    assert set(sums[:, 0]) == {60}


def test_same_seed_gives_the_same_resamples():
    values, speakers = np.arange(20).reshape(10, 2), ["a"] * 5 + ["b"] * 5
    first, again = (bootstrap.resample(values, speakers, seed=5) for _ in range(2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, bootstrap.resample(values, speakers, seed=6))


def test_blocks_bound_the_draws_without_losing_a_resample(monkeypatch):
    monkeypatch.setattr(bootstrap, "_DRAWS_AT_ONCE", 64)
    sums = bootstrap.resample(np.ones((30, 1), int), ["a", "b", "c"] * 10, seed=0)
    assert set(sums[:, 0]) == {30}


def test_thousand_utterances_take_well_under_a_second():
    started = time.perf_counter()
    bootstrap.resample(np.ones((1000, 2), int), [str(n % 40) for n in range(1000)], seed=0)
    assert time.perf_counter() - started < 1


def test_interval_leaves_two_and_a_half_percent_on_either_side():
    assert bootstrap.interval(np.arange(1001)) == (25.0, 975.0)


def test_p_value_counts_the_rarer_side_twice():
    assert bootstrap.p_value(np.array([-1.0] * 990 + [1.0] * 9)) == pytest.approx(2 * 10 / 1000)


def test_p_value_of_no_difference_is_one():
    assert bootstrap.p_value(np.zeros(1000)) == 1.0


def test_p_value_is_never_zero():
    assert bootstrap.p_value(np.ones(999)) == pytest.approx(2 / 1000)


def test_draws_that_are_kept_are_those_made_anew(monkeypatch):
    values = np.random.default_rng(1).integers(0, 10, size=(30, 2))
    kept = bootstrap.resample(values, ["ann"] * 30, seed=2)
    monkeypatch.setattr(bootstrap, "_MOST_KEPT", 0)
    assert np.array_equal(kept, bootstrap.resample(values, ["ann"] * 30, seed=2))
