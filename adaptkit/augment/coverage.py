"""The share of an utterance that SpecAugment masks: expected in closed form, and measured on draws."""

import torch
from torch import Tensor

from adaptkit.augment.specaugment import SpecAugment, check_bins, count_time_masks, covered, draw, time_widths
from adaptkit.errors import ConfigError


def expected_share(options: SpecAugment, num_frames: int, num_bins: int) -> float:
    """Return the expected share of an utterance's values under time or frequency masks.

    With P_t and P_f the probabilities that one mask covers frame t or bin f, it is
    1 - mean_t (1 - P_t)^M mean_f (1 - P_f)^m_F. With a bound (`most_masked`) there is no closed form, since
    the masks left out depend on how masks overlap; `measured_share` draws them.
    """
    if options.most_masked < 1:
        raise ConfigError(
            f"the expected share has no closed form with most_masked {options.most_masked:g}; measure it"
        )
    check_bins(options, num_bins)
    if num_frames < 1:
        return 0.0
    lengths = torch.tensor([num_frames])
    lowest, end = (int(edge) for edge in time_widths(options, lengths))
    kept_frames = (1 - _chance(num_frames, lowest, end)) ** int(count_time_masks(options, lengths))
    freq_width = options.freq_width if options.freq_masks else (0, 0)
    kept_bins = (1 - _chance(num_bins, *freq_width)) ** options.freq_masks
    return 1 - float(kept_frames.mean() * kept_bins.mean())


def measured_share(options: SpecAugment, lengths: Tensor, num_bins: int, keys: Tensor) -> Tensor:
    """Return the share of values that `augment` masks, (B,) in float64.

    Utterances have lengths (B,) in frames and keys (B,); the share is 0 for an utterance of length 0.
    """
    draws = draw(options, lengths, num_bins, keys)
    size = int(lengths.max())
    frames = covered(draws.time_starts, draws.time_widths, size).sum(dim=1).double() / lengths.clamp(min=1)
    bins = covered(draws.freq_starts, draws.freq_widths, num_bins).sum(dim=1).double() / num_bins
    return (lengths > 0) * (1 - (1 - frames) * (1 - bins))


def _chance(size: int, lowest: int, end: int) -> Tensor:
    """Return the probability that one mask, its width drawn from [lowest, end), covers each of `size` places.

    A mask of width w starts at one of size - w places. The number of starts that cover a place rises by one
    per place from the first, is constant from w, falls from size - w and is 0 at size: a double cumulative
    sum over these breakpoints.
    """
    bends = torch.zeros(size + 1, dtype=torch.float64)
    widths = torch.arange(lowest, max(lowest, end))
    weights = 1 / ((size - widths).double() * len(widths))  # probability of a start and of a width
    for place, sign in ((0 * widths, 1), (widths, -1), (size - widths, -1), (0 * widths + size, 1)):
        bends.index_add_(0, place, sign * weights)
    return bends.cumsum(dim=0).cumsum(dim=0)[:size]
