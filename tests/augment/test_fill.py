"""Fills of masks: the utterance's own moments, and noise of them."""

import pytest
import scipy  # its stats when they are used, as they take seconds
import torch

from adaptkit import config
from adaptkit.augment.fill import gaussian, moments
from adaptkit.augment.specaugment import SpecAugment, augment

LENGTHS, KEYS = torch.tensor([300, 120, 40]), torch.tensor([11, 12, 13])
MASKS = {"freq_masks": 1, "freq_width": [3, 9], "time_masks": 2, "time_width": [5, 20]}
ALL = {"freq_masks": 1, "freq_width": [9, 10]}  # 9 of 10 bins


def options(**fields):
    return config.check(SpecAugment, fields, "test")


@pytest.fixture
def feats():
    """Features whose bins have means and deviations of their own, and padding far away."""
    noise = torch.randn(3, 300, 10, generator=torch.Generator().manual_seed(0))
    feats = noise * torch.arange(1, 11) + 3 * torch.arange(10)
    feats[torch.arange(300) >= LENGTHS[:, None]] = 1e4
    return feats


def is_own():
    return torch.arange(300) < LENGTHS[:, None]


def test_moments_are_of_own_frames_alone(feats):
    means, deviations = moments(feats, is_own(), LENGTHS)
    for row, length in enumerate(LENGTHS):
        torch.testing.assert_close(means[row], feats[row, :length].mean(dim=0))
        torch.testing.assert_close(deviations[row], feats[row, :length].std(dim=0, correction=0))


def test_masked_values_are_the_means_of_their_bins_and_others_are_untouched(feats):
    is_masked = augment(options(**MASKS), torch.ones_like(feats), LENGTHS, KEYS) == 0
    means = moments(feats, is_own(), LENGTHS)[0][:, None].expand_as(feats)
    out = augment(options(**MASKS, fill="mean"), feats, LENGTHS, KEYS)
    assert torch.equal(out, torch.where(is_masked, means, feats))


def test_noise_stands_in_masked_places_alone(feats):
    is_masked = augment(options(**MASKS), torch.ones_like(feats), LENGTHS, KEYS) == 0
    out = augment(options(**MASKS, fill="noise"), feats, LENGTHS, KEYS)
    assert torch.equal(out == feats, ~is_masked)


@pytest.mark.parametrize("row", [0, 1])
def test_noise_is_gaussian_with_the_moments_of_the_utterance(feats, row):
    out = augment(options(**ALL, fill="noise"), feats, LENGTHS, KEYS)[row, : LENGTHS[row]]
    means, deviations = moments(feats, is_own(), LENGTHS)
    standard = ((out - means[row]) / deviations[row])[:, (out != feats[row, : LENGTHS[row]]).all(dim=0)]
    assert standard.shape[1] == 9
    assert scipy.stats.kstest(standard.flatten().numpy(), "norm").pvalue > 1e-3


def test_noise_differs_by_place_and_key():
    drawn = gaussian(torch.arange(100).repeat_interleave(100), torch.arange(100).repeat(100))
    assert len(drawn.unique()) == 10_000


def test_noise_of_a_constant_bin_is_its_value():
    feats = torch.full((1, 50, 10), 4.0)
    out = augment(options(**MASKS, fill="noise"), feats, torch.tensor([50]), KEYS[:1])
    assert torch.equal(out, feats)


@pytest.mark.parametrize("fill", ["mean", "noise"])
def test_a_batch_without_a_frame_stays_what_it_is(fill):
    feats = torch.ones(2, 4, 10)
    out = augment(options(**MASKS, fill=fill), feats, torch.tensor([0, 0]), KEYS[:2])
    assert torch.equal(out, feats)


@pytest.mark.parametrize("fill", ["zero", "mean", "noise"])
def test_gradients_go_through_unmasked_values_to_features_that_are_learned(feats, fill):
    lengths = LENGTHS * torch.tensor([1, 0, 1])
    feats = feats.requires_grad_()
    augment(options(**ALL, fill=fill), feats, lengths, KEYS).sum().backward()
    assert feats.grad[0].sum(dim=0).tolist().count(300.0) == 1
    assert torch.equal(feats.grad[1], torch.ones(300, 10))
