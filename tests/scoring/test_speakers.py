"""Speakers improved and harmed, against all signs of their changes in turn."""

import itertools
import math
import random

import pytest

from adaptkit.scoring import speakers
from adaptkit.scoring.speakers import count_speakers, p_value


def all_sums(changes):
    """The sum of changes under every choice of their signs."""
    signs = itertools.product((1, -1), repeat=len(changes))
    return [sum(sign * change for sign, change in zip(one, changes, strict=True)) for one in signs]


@pytest.mark.parametrize("changes", [[0, 0], [1], [2, 0, -1], [3, 1, 1, -2, 0, 1], [2, 2, 4, -2], [1] * 6])
def test_p_value_is_the_share_of_signs_that_harm_as_much(changes):
    sums = all_sums(changes)
    assert p_value(changes) == pytest.approx(sum(s >= sum(changes) for s in sums) / len(sums))


@pytest.mark.parametrize("changes", [[1401, 1402, 1403], [1401, -1402, 1403], [5000, 1, 1], [-4001, 2000]])
def test_few_changes_of_many_errors_are_exact(changes):
    sums = all_sums(changes)
    counts = count_speakers([{"ann": changes}])
    assert p_value(changes) == pytest.approx(sum(s >= sum(changes) for s in sums) / len(sums))
    assert counts["harmed_by_chance"] == pytest.approx(sum(s > 0 for s in sums) / len(sums))
    assert counts["significantly_by_chance"] == 0


@pytest.mark.parametrize("number", [13, 20, 60])
def test_more_changes_have_no_p_value_below_that_of_all_signs_alike(number):
    assert p_value([1401 + n for n in range(number)]) >= 2**-number


def test_counts_by_chance_are_those_of_all_signs():
    changes = {"ann": [1, 1, 1, 1, 1, 0], "bob": [2, -1, 1], "eve": [0, 0]}
    counts = count_speakers([changes])
    assert [counts[name] for name in ("improved", "equal", "harmed")] == [0, 1, 2]
    # of the signs of ann's five changes half harm; of bob's 3 in 8 (+2+1+1, +2-1+1 and +2+1-1), 2 in 8 are 0
    assert counts["harmed_by_chance"] == pytest.approx(0.5 + 3 / 8)
    assert (counts["harmed_significantly"], counts["improved_significantly"]) == (1, 0)
    assert counts["significantly_by_chance"] == pytest.approx(1 / 32, abs=1e-4)  # p < 0.05 if all five agree


def test_counts_of_several_runs_are_means():
    pairs = [{"ann": [1], "bob": [-1]}, {"ann": [1], "bob": [0]}]
    counts = count_speakers(pairs)
    assert [counts[name] for name in ("improved", "equal", "harmed")] == [0.5, 0.5, 1]


def test_speaker_of_a_single_utterance_is_never_harmed_significantly():
    assert count_speakers([{"ann": [9]}])["harmed_significantly"] == 0


def test_without_a_difference_as_many_are_harmed_as_chance_says():
    rng = random.Random(0)
    changes = {f"s{n}": [rng.choice((-1, 0, 1, 2, -2)) for _ in range(10)] for n in range(1000)}
    counts = count_speakers([changes])
    assert counts["harmed"] == pytest.approx(counts["harmed_by_chance"], abs=3 * math.sqrt(1000) / 2)
    assert counts["harmed_significantly"] == pytest.approx(counts["significantly_by_chance"], abs=21)


def test_many_changes_are_taken_as_normal_with_nearly_the_same_result(monkeypatch):
    rng = random.Random(1)
    changes = [rng.choice((-1, 0, 1, 2)) for _ in range(300)]
    exact = p_value(changes), count_speakers([{"ann": changes}])["harmed_by_chance"]
    monkeypatch.setattr(speakers, "_MOST_EXACT", 10)
    speakers._distribution.cache_clear()
    assert (p_value(changes), count_speakers([{"ann": changes}])["harmed_by_chance"]) == pytest.approx(
        exact, abs=2e-3
    )
    speakers._distribution.cache_clear()
