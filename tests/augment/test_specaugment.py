"""SpecAugment's draws against their distributions, and the features it gives against loops written out."""

import math
from dataclasses import fields as fields_of

import numpy as np
import pytest
import scipy  # its stats when they are used, as they take seconds
import torch

from adaptkit import config
from adaptkit.augment.coverage import measured_share
from adaptkit.augment.keyed_random import make_key
from adaptkit.augment.specaugment import SpecAugment, augment, covered, draw

LEAST = 1e-3  # p-value; the draws are fixed, so a test that passes always does
ADAPTIVE = {"freq_masks": 2, "freq_width": 27, "time_masks_ratio": 0.04, "time_width_ratio": 0.04}
FIXED = {"freq_masks": 2, "freq_width": [3, 9], "time_masks": 3, "time_width": [4, 30]}
WARPED = {**ADAPTIVE, "time_warp": 10}
LENGTHS = torch.tensor([700, 0, 1, 2, 3, 21, 98, 500])
KEYS = torch.tensor([make_key(7, 0, f"utt{number}") for number in range(len(LENGTHS))])
on_policies = pytest.mark.parametrize(
    "fields", [ADAPTIVE, FIXED, WARPED], ids=["adaptive", "fixed", "warped"]
)


def options(**fields):
    return config.check(SpecAugment, fields, "test")


def drawn(num_frames, num=20_000, **fields):
    """Draw for many utterances of one length."""
    return draw(options(**fields), torch.full((num,), num_frames), 80, torch.arange(num))


def batch(lengths=LENGTHS, num_bins=80, padding=math.nan):
    """Random features, padded with values that would show wherever they were used."""
    feats = torch.randn(
        len(lengths), int(lengths.max()), num_bins, generator=torch.Generator().manual_seed(0)
    )
    feats[torch.arange(feats.shape[1]) >= lengths[:, None]] = padding
    return feats


def is_uniform(values, lowest, end):
    counts = torch.bincount(values.flatten() - lowest, minlength=end - lowest).numpy()
    return len(counts) == end - lowest and scipy.stats.chisquare(counts).pvalue > LEAST


def is_start(starts, widths, size, lowest, end):
    """Whether starts are as likely as the mean of the uniform ones of each width makes them."""
    chances = sum(np.where(np.arange(size) < size - w, 1 / (size - w), 0) for w in range(lowest, end))
    counts = np.bincount(starts.flatten(), minlength=size)
    has_any = chances > 0
    assert not counts[~has_any].any()
    expected = counts.sum() * chances[has_any] / (end - lowest)
    return scipy.stats.chisquare(counts[has_any], expected).pvalue > LEAST


@pytest.mark.parametrize(
    ("num_frames", "num_masks"), [(24, 0), (25, 1), (50, 2), (499, 19), (500, 20), (3000, 20)]
)
def test_number_of_time_masks_is_the_floor_of_its_part_of_the_length(num_frames, num_masks):
    assert drawn(num_frames, 2, **ADAPTIVE).time_widths.shape == (2, num_masks)


def test_a_part_that_is_whole_but_for_rounding_is_whole():
    assert 0.29 * 100 < 29
    assert drawn(100, 1, time_masks_ratio=0.29, most_time_masks=50, time_width=5).time_widths.shape == (1, 29)


@pytest.mark.parametrize(
    ("num_frames", "fields", "lowest", "end"),
    [
        (500, {"time_width": 30}, 0, 30),
        (500, {"time_width": [7, 30]}, 7, 30),
        (100, {"time_width": 70, "time_width_bound": 0.2}, 0, 20),
        (40, {"time_width": 100}, 0, 40),
        (500, {"time_width_ratio": 0.04}, 0, 20),
        (500, {"time_width_ratio": [0.02, 0.04]}, 10, 20),
        (40, {"time_width_ratio": 1.0}, 0, 40),
    ],
)
def test_time_masks_have_uniform_widths_and_then_uniform_starts(num_frames, fields, lowest, end):
    draws = drawn(num_frames, time_masks=2, **fields)
    assert is_uniform(draws.time_widths, lowest, end)
    assert is_start(draws.time_starts, draws.time_widths, num_frames, lowest, end)


@pytest.mark.parametrize(("width", "lowest", "end"), [(27, 0, 27), ([5, 16], 5, 16), (80, 0, 80)])
def test_frequency_masks_have_uniform_widths_and_then_uniform_starts(width, lowest, end):
    draws = drawn(10, freq_masks=2, freq_width=width)
    assert is_uniform(draws.freq_widths, lowest, end)
    assert is_start(draws.freq_starts, draws.freq_widths, 80, lowest, end)


def test_starts_of_masks_of_one_width_are_uniform():
    draws = drawn(60, time_masks=1, time_width=[9, 10], freq_masks=1, freq_width=[20, 21])
    assert is_uniform(draws.time_starts, 0, 51)
    assert is_uniform(draws.freq_starts, 0, 60)


def test_anchors_and_shifts_are_uniform_and_independent():
    draws = drawn(50, time_warp=12)
    assert is_uniform(draws.anchors, 12, 38)
    assert is_uniform(draws.shifts, -12, 13)
    pairs = torch.bincount((draws.anchors - 12) * 25 + draws.shifts + 12, minlength=26 * 25)
    assert scipy.stats.chi2_contingency(pairs.view(26, 25).numpy()).pvalue > LEAST


def test_masks_of_an_utterance_are_independent_of_each_other():
    draws = drawn(50, time_masks=2, time_width=10, freq_masks=2, freq_width=10)
    widths = torch.cat([draws.freq_widths, draws.time_widths], dim=1)
    for one, other in torch.combinations(torch.arange(4)):
        pairs = torch.bincount(widths[:, one] * 10 + widths[:, other], minlength=100)
        assert scipy.stats.chi2_contingency(pairs.view(10, 10).numpy()).pvalue > LEAST


@pytest.mark.parametrize("num_frames", [1, 20, 24])
def test_an_utterance_of_at_most_twice_the_window_is_not_warped(num_frames):
    draws = drawn(num_frames, 100, time_warp=12)
    assert not draws.anchors.any()
    assert not draws.shifts.any()


def test_there_is_no_mask_where_the_range_of_widths_is_empty():
    assert not drawn(99, 100, time_masks=2, time_width_ratio=[0.01, 0.019]).time_widths.any()
    assert not drawn(30, 100, time_masks=2, time_width=[6, 20], time_width_bound=0.2).time_widths.any()


@on_policies
def test_draws_of_a_row_do_not_depend_on_its_batch(fields):
    together = draw(options(**fields), LENGTHS, 80, KEYS)
    for row in range(len(LENGTHS)):
        alone = draw(options(**fields), LENGTHS[row : row + 1], 80, KEYS[row : row + 1])
        for name in (field.name for field in fields_of(alone)):
            one, among = getattr(alone, name)[0], getattr(together, name)[row]
            num = one.numel()
            assert torch.equal(one, among[:num] if among.dim() else among)
            assert not (name.endswith("widths") and among[num:].any())


@on_policies
@pytest.mark.parametrize("fill", ["zero", "mean", "noise"])
@pytest.mark.parametrize("most_masked", [1.0, 0.2])
def test_a_row_is_the_same_bits_alone_and_among_others(fields, fill, most_masked):
    policy = options(**fields, fill=fill, most_masked=most_masked)
    feats = batch()
    together = augment(policy, feats, LENGTHS, KEYS)
    for row, length in enumerate(LENGTHS.tolist()):
        one = slice(row, row + 1)
        alone = augment(policy, feats[one, :length], LENGTHS[one], KEYS[one])
        assert torch.equal(alone[0], together[row, :length])


@on_policies
def test_the_order_of_rows_does_not_matter(fields):
    order = torch.randperm(len(LENGTHS), generator=torch.Generator().manual_seed(1))
    feats = batch(padding=0)
    in_order = augment(options(**fields), feats, LENGTHS, KEYS)
    assert torch.equal(augment(options(**fields), feats[order], LENGTHS[order], KEYS[order]), in_order[order])


@on_policies
@pytest.mark.parametrize("fill", ["zero", "mean", "noise"])
def test_padding_and_the_given_tensor_stay_what_they_are(fields, fill):
    feats = batch(padding=1e6)
    before = feats.clone()
    out = augment(options(**fields, fill=fill), feats, LENGTHS, KEYS)
    is_padding = torch.arange(feats.shape[1]) >= LENGTHS[:, None]
    assert torch.equal(out[is_padding], feats[is_padding])
    assert out[~is_padding].isfinite().all()
    assert torch.equal(feats, before)
    assert out.data_ptr() != feats.data_ptr()


@on_policies
def test_features_in_any_memory_order_give_the_same(fields):
    feats = batch()
    strided = feats.transpose(1, 2).contiguous().transpose(1, 2)
    out = augment(options(**fields), strided, LENGTHS, KEYS)
    assert torch.equal(out.nan_to_num(9), augment(options(**fields), feats, LENGTHS, KEYS).nan_to_num(9))


@on_policies
@pytest.mark.parametrize("fill", ["zero", "mean", "noise"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_dtypes_are_kept_and_close(fields, fill, dtype):
    policy, feats = options(**fields, fill=fill), batch(padding=0)
    out = augment(policy, feats.to(dtype), LENGTHS, KEYS)
    assert out.dtype == dtype
    torch.testing.assert_close(out.float(), augment(policy, feats, LENGTHS, KEYS), atol=0.05, rtol=0)


def test_values_outside_masks_are_untouched_and_those_inside_are_zero():
    lengths, feats = LENGTHS[-2:], batch(LENGTHS[-2:], padding=5)
    policy = options(**FIXED)
    draws = draw(policy, lengths, 80, KEYS[:2])
    expected = feats.clone()
    for row in range(2):
        for start, width in zip(draws.freq_starts[row], draws.freq_widths[row], strict=True):
            expected[row, : lengths[row], start : start + width] = 0
        for start, width in zip(draws.time_starts[row], draws.time_widths[row], strict=True):
            expected[row, start : start + width] = 0
    assert torch.equal(augment(policy, feats, lengths, KEYS[:2]), expected)


def warped_by_loops(frames, anchor, shift):
    """Read every frame of a warped utterance (tau, F) by the two lines through w0 + w, in numpy."""
    last, moved, out = len(frames) - 1, anchor + shift, []
    for place in range(len(frames)):
        if place < moved:
            source = place * anchor / moved
        else:
            source = anchor + ((place - moved) * (last - anchor) / (last - moved) if last > moved else 0)
        below = math.floor(source)
        above = min(below + 1, last)
        out.append(frames[below] * (below + 1 - source) + frames[above] * (source - below))
    return np.stack(out)


@pytest.mark.parametrize("window", [1, 5, 40])
def test_a_warp_is_that_of_loops_written_out(window):
    lengths = torch.tensor([2 * window + 1, 2 * window + 2, 100, 301])
    feats, policy = batch(lengths, num_bins=6).double(), options(time_warp=window)
    draws, out = draw(policy, lengths, 6, KEYS[:4]), augment(policy, feats, lengths, KEYS[:4])
    for row, length in enumerate(lengths):
        frames = feats[row, :length].numpy()
        expected = warped_by_loops(frames, int(draws.anchors[row]), int(draws.shifts[row]))
        np.testing.assert_allclose(out[row, :length], expected, rtol=0, atol=1e-12)


def test_every_shift_to_an_end_of_the_smallest_warp_is_that_of_loops():
    lengths, keys = torch.full((30,), 3), torch.arange(30)  # W = 1: the anchor is 1, moved to 0, 1 or 2
    feats = torch.tensor([[10.0], [20.0], [40.0]]).expand(30, 3, 1)
    shifts = draw(options(time_warp=1), lengths, 1, keys).shifts
    out = augment(options(time_warp=1), feats, lengths, keys)
    by_hand = {-1: [20.0, 30.0, 40.0], 0: [10.0, 20.0, 40.0], 1: [10.0, 15.0, 20.0]}
    assert set(shifts.tolist()) == set(by_hand)
    assert out[..., 0].tolist() == [by_hand[shift] for shift in shifts.tolist()]


def test_masks_are_laid_after_the_warp():
    policy, feats = options(**WARPED), batch()
    draws = draw(policy, LENGTHS, 80, KEYS)
    masked = augment(policy, feats, LENGTHS, KEYS)[0]
    steps = covered(draws.time_starts, draws.time_widths, 700)[0]
    assert draws.shifts[0] != 0
    assert not masked[steps].any()
    assert masked[~steps].any(dim=1).all()


@pytest.mark.parametrize("most_masked", [0.0, 0.1, 0.3, 0.5, 0.9])
def test_the_bound_on_masked_values_is_never_exceeded(most_masked):
    lengths = torch.arange(1, 601)
    policy = options(**FIXED, most_masked=most_masked)
    assert measured_share(policy, lengths, 80, torch.arange(600)).max() <= most_masked + 1e-12


@pytest.mark.parametrize(
    ("most_masked", "num_freq", "num_time"),
    [(0.09, 0, 0), (0.1, 1, 0), (0.27, 1, 0), (0.28, 1, 1)],  # 1 bin of 10; 1 - 0.9 * 0.8 = 0.28
)  # fmt: skip
def test_the_bound_leaves_out_masks_from_the_first_that_exceeds_it(most_masked, num_freq, num_time):
    fields = {"freq_masks": 1, "freq_width": [1, 2], "time_masks": 1, "time_width": [10, 11]}
    policy = options(**fields, most_masked=most_masked)
    draws = draw(policy, torch.tensor([50]), 10, torch.tensor([3]))
    assert (int((draws.freq_widths > 0).sum()), int((draws.time_widths > 0).sum())) == (num_freq, num_time)


def test_masks_after_the_first_left_out_are_left_out_even_if_they_would_fit():
    free = drawn(100, 500, time_masks=5, time_width=40)
    bound = drawn(100, 500, time_masks=5, time_width=40, most_masked=0.5)
    for all_widths, widths, starts in zip(free.time_widths, bound.time_widths, free.time_starts, strict=True):
        prefixes = [covered(starts[None, :num], all_widths[None, :num], 100).sum() for num in range(1, 6)]
        num_kept = sum(bool(prefix <= 50) for prefix in prefixes)
        assert torch.equal(widths, torch.where(torch.arange(5) < num_kept, all_widths, 0))


def test_an_epoch_draws_anew():
    feats, lengths = batch(LENGTHS[-1:]), LENGTHS[-1:]
    outs = [augment(options(**ADAPTIVE), feats, lengths, torch.tensor([make_key(0, n, "a")])) for n in (0, 1)]
    assert not torch.equal(*outs)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@on_policies
def test_cuda_draws_the_same_masks_and_gives_the_same_features(fields):
    feats = batch(padding=0)
    out = augment(options(**fields, most_masked=0.4), feats.cuda(), LENGTHS, KEYS)
    expected = augment(options(**fields, most_masked=0.4), feats, LENGTHS, KEYS)
    assert out.is_cuda
    assert torch.equal(out.cpu() == 0, expected == 0)
    torch.testing.assert_close(out.cpu(), expected)
