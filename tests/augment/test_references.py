"""SpecAugment beside torchaudio's and ESPnet's: the same on equal lengths, and right on unequal ones too."""

import numpy as np
import pytest
import scipy  # its stats when they are used, as they take seconds
import torch
from torchaudio.functional import mask_along_axis_iid

from adaptkit import config
from adaptkit.augment.specaugment import SpecAugment, augment

pytestmark = pytest.mark.slow

LEAST = 1e-3  # p-value; the draws are fixed, so a test that passes always does
NUM_FRAMES, NUM_BINS, NUM_DRAWS = 200, 80, 1500


@pytest.fixture(autouse=True)
def reference_draws():
    """Fix the global state, from which torchaudio and ESPnet draw."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def ours(num_frames, **fields):
    """Augment features of ones, of many utterances of one length."""
    policy = config.check(SpecAugment, fields, "test")
    feats, lengths = torch.ones(NUM_DRAWS, num_frames, NUM_BINS), torch.full((NUM_DRAWS,), num_frames)
    return augment(policy, feats, lengths, torch.arange(NUM_DRAWS))


def torchaudio_masked(width, axis):
    """The same by torchaudio; its axes are bins, then frames."""
    return mask_along_axis_iid(torch.ones(NUM_DRAWS, NUM_BINS, NUM_FRAMES), width, 0.0, axis).transpose(1, 2)


def espnet_masked(width, dim):
    """The same by ESPnet, one utterance at a time: masks of a batch share the bound on their starts."""
    from espnet2.layers.mask_along_axis import mask_along_axis

    feats = torch.ones(NUM_DRAWS, 1, NUM_FRAMES, NUM_BINS)
    return torch.cat([mask_along_axis(one, None, (0, width), dim, num_mask=1)[0] for one in feats])


def espnet_time_masked(feats, lengths):
    """Two time masks of up to 5 %."""
    from espnet2.layers.mask_along_axis import MaskAlongAxisVariableMaxWidth

    return MaskAlongAxisVariableMaxWidth((0.0, 0.05), num_mask=2)(feats.clone(), lengths)[0]


def masked_lines(masked, dim):
    """Return which frames (dim 1) or bins (dim 2) are masked from end to end."""
    return (masked == 0).all(dim=3 - dim)


def counts_agree(one, other):
    """Whether two sets of counts may be of one distribution, by a chi-square test."""
    table = np.stack(
        [np.bincount(counts, minlength=max(one.max(), other.max()) + 1) for counts in (one, other)]
    )
    return scipy.stats.chi2_contingency(table[:, table.any(axis=0)]).pvalue > LEAST


def starts(lines):
    """The first masked place of each row that has one."""
    return lines.int().argmax(dim=1)[lines.any(dim=1)].numpy()


MASKS = {
    1: (40, {"time_masks": 1, "time_width": 40}),
    2: (27, {"freq_masks": 1, "freq_width": 27}),
}


@pytest.mark.parametrize("reference", ["torchaudio", "espnet"])
@pytest.mark.parametrize("dim", [1, 2], ids=["time", "freq"])
def test_one_mask_has_widths_and_starts_of_the_reference(reference, dim):
    width, fields = MASKS[dim]
    theirs = torchaudio_masked(width, 3 - dim) if reference == "torchaudio" else espnet_masked(width, dim)
    lines = [masked_lines(masked, dim) for masked in (ours(NUM_FRAMES, **fields), theirs)]
    assert counts_agree(*(line.sum(dim=1).numpy() for line in lines))
    assert scipy.stats.ks_2samp(*(starts(line) for line in lines)).pvalue > LEAST


def test_several_masks_of_both_kinds_cover_the_share_that_they_do_in_espnet():
    from espnet2.asr.specaug.specaug import SpecAug

    theirs = SpecAug(
        apply_time_warp=False,
        freq_mask_width_range=[0, 27],
        num_freq_mask=2,
        time_mask_width_ratio_range=[0.0, 0.05],
        num_time_mask=10,
    )
    masked = torch.cat([theirs(torch.ones(1, NUM_FRAMES, NUM_BINS))[0] for _ in range(NUM_DRAWS)])
    fields = {"freq_masks": 2, "freq_width": 27, "time_masks": 10, "time_width_ratio": 0.05}
    shares = [(one == 0).float().mean(dim=(1, 2)).numpy() for one in (ours(NUM_FRAMES, **fields), masked)]
    assert scipy.stats.ks_2samp(*shares).pvalue > LEAST


def test_a_warped_ramp_is_distributed_as_in_espnet():
    from espnet2.layers.time_warp import time_warp

    ramp = torch.arange(NUM_FRAMES).float()[:, None].expand(NUM_DRAWS, NUM_FRAMES, 4).contiguous()
    policy = config.check(SpecAugment, {"time_warp": 40}, "test")
    warped = augment(policy, ramp, torch.full((NUM_DRAWS,), NUM_FRAMES), torch.arange(NUM_DRAWS))
    theirs = torch.cat([time_warp(one[None].clone(), window=40) for one in ramp])
    for frame in (30, 100, 170):
        assert scipy.stats.ks_2samp(warped[:, frame, 0].numpy(), theirs[:, frame, 0].numpy()).pvalue > LEAST


def test_a_short_utterance_is_masked_beside_a_long_one_as_it_is_alone_in_espnet():
    policy = config.check(SpecAugment, {"time_masks": 2, "time_width_ratio": 0.05}, "test")
    lengths = torch.tensor([100, 1000]).repeat(NUM_DRAWS)
    beside = augment(policy, torch.ones(2 * NUM_DRAWS, 1000, 1), lengths, torch.arange(2 * NUM_DRAWS))[::2]
    alone = torch.cat([espnet_time_masked(torch.ones(1, 100, 1), None) for _ in range(NUM_DRAWS)])
    assert not (beside[:, 100:] == 0).any()
    assert counts_agree(*((masked == 0).sum(dim=(1, 2)).numpy() for masked in (beside, alone)))


def test_espnet_leaves_most_short_utterances_beside_long_ones_unmasked():
    feats, lengths = torch.ones(2, 1000, 1), torch.tensor([100, 1000])
    short = torch.stack([espnet_time_masked(feats, lengths)[0, :100] for _ in range(NUM_DRAWS)])
    num_masked = (short == 0).sum(dim=(1, 2))
    assert (num_masked == 0).float().mean() > 0.7  # 2 masks of at most 4 frames leave none in 1 of 25 alone
    assert num_masked.max() > 2 * 4  # and what there is follows the neighbour's length
