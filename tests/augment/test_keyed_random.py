"""Draws against SplitMix64 in Python's own integers, and against the uniform distribution."""

import numpy as np
import pytest
import scipy  # its stats when they are used, as they take seconds
import torch

from adaptkit.augment.keyed_random import integers, make_key, uniform

LEAST = 1e-3  # p-value; the draws are fixed, so a test that passes always does


def finalise(bits):
    """The finaliser of SplitMix64 as its authors print it, on integers from 0 to 2^64."""
    bits = (bits ^ bits >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    bits = (bits ^ bits >> 27) * 0x94D049BB133111EB % 2**64
    return bits ^ bits >> 31


@pytest.mark.parametrize("key", [0, 1, -1, 2**62 + 12345, -(2**63), make_key(1, 2, "a")])
@pytest.mark.parametrize("number", [0, 1, 977, 2**40])
def test_a_draw_is_that_of_splitmix64_from_the_finalised_key(key, number):
    bits = finalise((finalise(key % 2**64) + (number + 1) * 0x9E3779B97F4A7C15) % 2**64)
    assert uniform(torch.tensor([key]), [number]).item() == (bits >> 11) / 2**53


@pytest.mark.parametrize("other", [(2, 1, "a"), (1, 2, "a"), (1, 1, "b"), (1, 1, "aa"), (11, 1, "a")])
def test_keys_differ_by_seed_epoch_and_utterance(other):
    assert make_key(1, 1, "a") != make_key(*other)


def test_digits_of_seed_and_epoch_do_not_run_together():
    assert make_key(1, 11, "a") != make_key(11, 1, "a")


def test_a_hundred_thousand_utterances_have_as_many_keys():
    assert len({make_key(1, 0, f"utt{number}") for number in range(100_000)}) == 100_000


def test_keys_fill_64_bits_evenly():
    keys = torch.tensor([make_key(0, 0, f"utt{number}") for number in range(20_000)])
    assert scipy.stats.kstest(keys.numpy() / 2**64 + 0.5, "uniform").pvalue > LEAST


@pytest.mark.parametrize("shape", [(100_000, 1), (1, 100_000), (1000, 100)])
def test_draws_are_uniform_over_keys_over_numbers_and_over_both(shape):
    draws = uniform(torch.arange(shape[0])[:, None], range(shape[1])).flatten().numpy()
    assert draws.min() >= 0
    assert draws.max() < 1
    assert scipy.stats.chisquare(np.bincount((draws * 1000).astype(int), minlength=1000)).pvalue > LEAST
    assert scipy.stats.kstest(draws, "uniform").pvalue > LEAST


@pytest.mark.parametrize("lag", [1, 2, 3, 10])
@pytest.mark.parametrize("shape", [(50_000, 1), (1, 50_000)])
def test_draws_of_neighbouring_keys_and_numbers_are_independent(shape, lag):
    draws = uniform(torch.arange(shape[0])[:, None], range(shape[1])).flatten().numpy()
    cells = (draws[:-lag] * 10).astype(int) * 10 + (draws[lag:] * 10).astype(int)
    assert scipy.stats.chisquare(np.bincount(cells, minlength=100)).pvalue > LEAST
    correlation = np.corrcoef(draws[:-lag], draws[lag:])[0, 1]
    assert abs(correlation) < 4 / np.sqrt(len(draws))  # standard errors


def test_the_low_bits_of_draws_are_even_too():
    low = (uniform(torch.arange(100_000)[:, None], [0]) * 2**53).long() % 256
    assert scipy.stats.chisquare(torch.bincount(low.flatten(), minlength=256).numpy()).pvalue > LEAST


def test_asking_for_more_numbers_does_not_change_the_first():
    keys = torch.tensor([[5], [6]])
    assert torch.equal(uniform(keys, range(10))[:, :3], uniform(keys, [0, 1, 2]))


def test_a_key_draws_the_same_whatever_keys_it_is_among():
    keys = torch.arange(7)[:, None]
    assert torch.equal(uniform(keys, [3, 4])[5:6], uniform(keys[5:6], [3, 4]))


@pytest.mark.parametrize("below", [1, 2, 7, 100])
def test_integers_are_uniform_below_their_bound(below):
    drawn = integers(torch.arange(50_000)[:, None], [4], torch.tensor(below)).flatten()
    assert scipy.stats.chisquare(torch.bincount(drawn, minlength=below).numpy()).pvalue > LEAST or below == 1
    assert len(torch.bincount(drawn)) == below


def test_integers_below_zero_are_zero():
    assert torch.equal(integers(torch.arange(5)[:, None], [0], torch.tensor(0)), torch.zeros(5, 1).long())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_draws_on_cuda_are_those_on_the_cpu_bit_for_bit():
    keys = torch.tensor([[make_key(0, 0, str(number))] for number in range(1000)])
    assert torch.equal(uniform(keys.cuda(), range(50)).cpu(), uniform(keys, range(50)))
