"""The masked share against draws, against every mask counted, and by hand."""

from itertools import product

import pytest
import torch

from adaptkit import config
from adaptkit.augment.coverage import expected_share, measured_share
from adaptkit.augment.specaugment import SpecAugment, augment
from adaptkit.errors import ConfigError

ADAPTIVE = {"freq_masks": 2, "freq_width": 27, "time_masks_ratio": 0.04, "time_width_ratio": 0.04}
FIXED = {"freq_masks": 1, "freq_width": [5, 30], "time_masks": 2, "time_width": 70, "time_width_bound": 0.2}
TEN = {"time_masks": 10, "time_width_ratio": [0.01, 0.05]}


def options(**fields):
    return config.check(SpecAugment, fields, "test")


def counted_share(size, lowest, end):
    """Mask a line of `size` places with one mask in every way there is, and average."""
    shares = []
    for width in range(lowest, end):
        places = [
            start <= place < start + width for start, place in product(range(size - width), range(size))
        ]
        shares.append(sum(places) / len(places))
    return sum(shares) / len(shares)


@pytest.mark.parametrize("num_frames", [1, 3, 24, 98, 498, 1998])
@pytest.mark.parametrize("fields", [ADAPTIVE, FIXED, TEN], ids=["adaptive", "fixed", "ten"])
def test_expected_share_is_the_mean_of_drawn_ones(fields, num_frames):
    lengths = torch.full((4000,), num_frames)
    drawn = measured_share(options(**fields), lengths, 80, torch.arange(4000))
    error = drawn.std() / 4000**0.5
    assert abs(drawn.mean() - expected_share(options(**fields), num_frames, 80)) <= 4 * error + 1e-12


@pytest.mark.parametrize(("size", "lowest", "end"), [(10, 0, 4), (7, 2, 7), (30, 29, 30), (12, 0, 1)])
def test_expected_share_of_one_mask_is_that_of_every_mask_counted(size, lowest, end):
    expected = counted_share(size, lowest, end)
    along_time = options(time_masks=1, time_width=[lowest, end])
    along_bins = options(freq_masks=1, freq_width=[lowest, end])
    assert expected_share(along_time, size, 80) == pytest.approx(expected)
    assert expected_share(along_bins, 50, size) == pytest.approx(expected)


def test_a_mask_of_each_kind_by_hand():
    policy = options(freq_masks=1, freq_width=[2, 3], time_masks=1, time_width=[5, 6])
    assert expected_share(policy, 20, 10) == pytest.approx(1 - 0.8 * 0.75)


def test_an_adaptive_policy_masks_less_of_short_utterances():
    policy = options(time_masks_ratio=0.04, time_width_ratio=0.04)
    shares = [expected_share(policy, num_frames, 80) for num_frames in (10, 100, 200, 500)]
    assert shares == sorted(shares)
    assert shares[0] == 0


def test_an_utterance_of_no_frames_has_nothing_masked():
    assert expected_share(options(**FIXED), 0, 80) == 0
    assert measured_share(options(**FIXED), torch.tensor([0, 9]), 80, torch.tensor([1, 2]))[0] == 0


@pytest.mark.parametrize("most_masked", [1.0, 0.3])
def test_measured_share_is_that_of_zeros_in_masked_features(most_masked):
    policy = options(**ADAPTIVE, most_masked=most_masked)
    lengths, keys = torch.tensor([40, 400, 250]), torch.tensor([3, 4, 5])
    masked = augment(policy, torch.ones(3, 400, 80), lengths, keys)
    zeros = (masked == 0).sum(dim=(1, 2)) / (lengths * 80)
    torch.testing.assert_close(measured_share(policy, lengths, 80, keys), zeros, check_dtype=False)


def test_a_bound_has_no_closed_form_and_says_so():
    with pytest.raises(ConfigError, match=r"no closed form with most_masked 0\.5"):
        expected_share(options(**FIXED, most_masked=0.5), 100, 80)


def test_without_frequency_masks_their_width_does_not_matter():
    policy = options(time_masks=1, time_width=[5, 6])
    assert expected_share(policy, 20, 4) == pytest.approx(0.25)


def test_frequency_masks_too_wide_for_the_features_are_refused():
    with pytest.raises(ConfigError, match=r"freq_width \[0, 27\] is wider than features of 20 bins"):
        expected_share(options(**ADAPTIVE), 100, 20)
