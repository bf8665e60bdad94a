"""Random numbers that depend only on seed, epoch and utterance, not on batch, process or device.

Each utterance has a key of 64 bits; its i-th number is a hash of key and i, by the finaliser of SplitMix64
(Steele, Lea and Flood, Fast splittable pseudorandom number generators, 2014). A batch is therefore drawn at
once, bit-identical on any device, and drawing more numbers does not change the first ones.
"""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)  # 2^64 over the golden ratio, as a signed number
_FACTORS = (0xBF58476D1CE4E5B9 - (1 << 64), 0x94D049BB133111EB - (1 << 64))


def make_key(seed: int, epoch: int, utt_id: str) -> int:
    """Return the key of an utterance in an epoch of a run, a signed integer of 64 bits."""
    digest = hashlib.blake2b(f"{seed} {epoch} {utt_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def uniform(keys: Tensor, numbers: Tensor | Sequence[int]) -> Tensor:
    """Draw the given numbers of each key, in [0, 1): keys (..., 1) and numbers (n,) give (..., n), float64.

    Keys and numbers of the same shape are drawn pairwise.

    >>> uniform(torch.tensor([[7], [8]]), [0, 1]).shape
    torch.Size([2, 2])
    """
    numbers = torch.as_tensor(numbers, device=keys.device)
    bits = _mix(_mix(keys) + (numbers + 1) * _GOLDEN)
    return _shifted(bits, 11).double() * 2.0**-53


def integers(keys: Tensor, numbers: Tensor | Sequence[int], below: Tensor) -> Tensor:
    """Draw integers from 0 to `below` - 1, where `below` has the shape of the draws or broadcasts to it.

    If `below` is 0, the draw is 0.
    """
    return (uniform(keys, numbers) * below).long()


def _mix(bits: Tensor) -> Tensor:
    """Apply SplitMix64's finaliser; products wrap around, as signed integers do in two's complement."""
    bits = (bits ^ _shifted(bits, 30)) * _FACTORS[0]
    bits = (bits ^ _shifted(bits, 27)) * _FACTORS[1]
    return bits ^ _shifted(bits, 31)


def _shifted(bits: Tensor, by: int) -> Tensor:
    """Shift to the right, filling with zeros; `>>` would fill with the sign."""
    return (bits >> by) & ((1 << (64 - by)) - 1)
