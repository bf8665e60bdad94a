"""Values for masked places other than zero: an utterance's means, or noise with its mean and variance."""

import torch
from torch import Tensor, segment_reduce

from adaptkit.augment.keyed_random import uniform


def moments(feats: Tensor, is_own: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean and standard deviation of each bin over the frames of each row, both (B, F).

    `feats` is (B, T, F), `is_own` (B, T) marks the frames that are not padding and `lengths` (B,) counts
    them. Frames are summed in order, so that the result is bit-identical with any padding. A row of length 0
    gives zeros.
    """
    own = feats[is_own].to(torch.promote_types(feats.dtype, torch.float32))  # (N, F)
    mean = segment_reduce(own, "mean", lengths=lengths, axis=0, initial=0.0)
    squares = (own - mean.repeat_interleave(lengths, dim=0)).square_()
    return mean, segment_reduce(squares, "mean", lengths=lengths, axis=0, initial=0.0).sqrt()


def gaussian(keys: Tensor, numbers: Tensor) -> Tensor:
    """Draw a standard Gaussian value for each key and number, both (P,), by inverse transform sampling."""
    return torch.special.ndtri(uniform(keys, numbers).clamp(min=2.0**-54))  # 0 would give minus infinity
