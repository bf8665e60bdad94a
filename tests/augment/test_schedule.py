"""A policy at work: what it chooses for an utterance."""

import math

import pytest
import soundfile
import torch

from adaptkit.augment import schedule
from adaptkit.augment.keyed_random import make_key
from adaptkit.augment.policy import Policy
from adaptkit.errors import DataError

SPEC = {"freq_masks": 1, "freq_width": 5}
NAMES = [f"spk{number % 50}-{number:05}" for number in range(1000)]


@pytest.fixture
def start(tmp_path):
    """Start a policy with noise, of some share of noisy utterances, and perhaps masks."""
    noise = torch.randn(4000, generator=torch.Generator().manual_seed(0)).mul(0.1).numpy()
    soundfile.write(tmp_path / "hiss.wav", noise, 8000)

    def run(noisy=0.2, *, seed=0, spec=SPEC, masks_on="clean"):
        parts = {"spec": spec, "noise": {"noises": [tmp_path]}, "mix": {"noisy": noisy, "masks_on": masks_on}}
        return schedule.start(Policy.model_validate(parts), seed, 8000)

    return run


def noisy_ones(working):
    return {name for name in NAMES if working.choose(name).is_noisy}


def test_a_policy_without_anything_is_none_at_work():
    assert schedule.start(Policy(), 0, 8000) is None


def test_a_policy_without_noise_has_no_recordings_and_masks_all():
    working = schedule.start(Policy.model_validate({"spec": SPEC}), 0, 8000)

    assert working.bank is None
    assert all((one.is_noisy, one.is_masked) == (False, True) for one in map(working.choose, NAMES[:200]))


@pytest.mark.parametrize("noisy", [0.2, 0.5, 0.9])
def test_the_share_of_noisy_utterances_is_binomial(start, noisy):
    deviation = math.sqrt(noisy * (1 - noisy) / len(NAMES))

    for epoch in range(2):
        share = len(noisy_ones(start(noisy).in_epoch(epoch))) / len(NAMES)
        assert share == pytest.approx(noisy, abs=4 * deviation)


@pytest.mark.parametrize(("noisy", "expected"), [(0.0, 0), (1.0, len(NAMES))])
def test_no_or_every_utterance_can_be_noisy(start, noisy, expected):
    assert len(noisy_ones(start(noisy))) == expected


def test_a_larger_share_makes_the_same_utterances_noisy_and_more(start):
    assert noisy_ones(start(0.1)) < noisy_ones(start(0.3))


def test_mixed_masks_are_on_the_clean_utterances_alone_and_stacked_ones_on_all(start):
    mixed, stacked = (
        [w.choose(name) for name in NAMES[:500]] for w in (start(0.5), start(0.5, masks_on="all"))
    )

    assert all(one.is_masked != one.is_noisy for one in mixed)
    assert all(one.is_masked for one in stacked)
    assert [one.is_noisy for one in mixed] == [one.is_noisy for one in stacked]


def test_without_masks_nothing_is_masked(start):
    assert not any(start(0.5, spec=None, masks_on="all").choose(name).is_masked for name in NAMES[:200])


def test_another_epoch_or_seed_makes_other_utterances_noisy(start):
    first, others = noisy_ones(start(0.5)), (start(0.5).in_epoch(1), start(0.5, seed=1))

    for other in map(noisy_ones, others):
        assert len(first & other) / len(NAMES) == pytest.approx(0.25, abs=0.03)  # independent: 0.5 times 0.5


def test_the_key_is_that_of_seed_epoch_and_utterance(start):
    assert start(seed=3).in_epoch(2).choose("a").key == make_key(3, 2, "a")


def test_missing_recordings_are_refused_at_the_start(tmp_path):
    policy = Policy.model_validate({"noise": {"noises": [tmp_path / "nowhere"]}})
    with pytest.raises(DataError, match="noises: .*nowhere: no such folder or list"):
        schedule.start(policy, 0, 8000)
