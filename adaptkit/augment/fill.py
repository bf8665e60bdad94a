"""What stands in masked places where it is not zero: an utterance's own means, or noise like itself."""

import torch
from torch import Tensor, segment_reduce

from adaptkit.augment.keyed_random import uniform


def moments(feats: Tensor, is_own: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Give mean and deviation of each bin over the own frames of each row, both (B, F).

    From features (B, T, F) and which frames are own (B, T), as many as `lengths` (B,). Frames are summed in
    order, to the same bits whatever the padding. A row of length 0 has zeros.
    """
    own = feats[is_own].to(torch.promote_types(feats.dtype, torch.float32))  # (N, F)
    mean = segment_reduce(own, "mean", lengths=lengths, axis=0, initial=0.0)
    squares = (own - mean.repeat_interleave(lengths, dim=0)).square_()
    return mean, segment_reduce(squares, "mean", lengths=lengths, axis=0, initial=0.0).sqrt()


def gaussian(keys: Tensor, numbers: Tensor) -> Tensor:
    """Draw a standard Gaussian value for each key and number, both (P,), by inverting its distribution."""
    return torch.special.ndtri(uniform(keys, numbers).clamp(min=2.0**-54))  # 0 would give minus infinity
