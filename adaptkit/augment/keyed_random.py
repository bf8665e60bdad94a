"""Random numbers that belong to an utterance and an epoch, whatever shares its batch, process or run.

Each utterance has a key of 64 bits; its i-th number is a hash of key and i, by the finaliser of SplitMix64
(Steele, Lea and Flood, Fast splittable pseudorandom number generators, 2014). So a batch is drawn at once on
any device, to the same bits, and asking for more numbers does not change the first.
"""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)  # 2^64 over the golden ratio, as a signed number
_FACTORS = (0xBF58476D1CE4E5B9 - (1 << 64), 0x94D049BB133111EB - (1 << 64))


def make_key(seed: int, epoch: int, utt_id: str) -> int:
    """Give the key of an utterance in an epoch of a run, a signed number of 64 bits."""
    digest = hashlib.blake2b(f"{seed} {epoch} {utt_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def uniform(keys: Tensor, numbers: Tensor | Sequence[int]) -> Tensor:
    """Draw the given numbers of each key, in [0, 1): keys (..., 1) and numbers (n,) give (..., n), float64.

    Keys and numbers of one shape are drawn in pairs.

    >>> uniform(torch.tensor([[7], [8]]), [0, 1]).shape
    torch.Size([2, 2])
    """
    numbers = torch.as_tensor(numbers, device=keys.device)
    bits = _mix(_mix(keys) + (numbers + 1) * _GOLDEN)
    return _shifted(bits, 11).double() * 2.0**-53


def integers(keys: Tensor, numbers: Tensor | Sequence[int], below: Tensor) -> Tensor:
    """Draw integers from 0 to `below` - 1, which has the shape of the draws or broadcasts to it.

    Where `below` is 0 the draw is 0.
    """
    return (uniform(keys, numbers) * below).long()


def _mix(bits: Tensor) -> Tensor:
    """Finalise 64 bits; products wrap around, as signed ones do in two's complement."""
    bits = (bits ^ _shifted(bits, 30)) * _FACTORS[0]
    bits = (bits ^ _shifted(bits, 27)) * _FACTORS[1]
    return bits ^ _shifted(bits, 31)


def _shifted(bits: Tensor, by: int) -> Tensor:
    """Shift to the right and fill with zeros, where `>>` would fill with the sign."""
    return (bits >> by) & ((1 << (64 - by)) - 1)
