"""Count the speakers that fare better, the same and worse with one system than with another.

A speaker is harmed if their word error rate is higher. With few utterances, noise alone harms almost half of
all speakers, so this share is reported with two further figures. Both come from a randomisation test over the
utterances of a speaker: without a difference between the systems, the change of each utterance and its
opposite are equally likely (Noreen, Computer-intensive methods for testing hypotheses, 1989; the matched
pairs of Gillick and Cox, Some statistical issues in the comparison of speech recognition algorithms, 1989).
One figure is the share of speakers that chance alone would harm; the other counts the speakers harmed
significantly, for whom chance would bring as large a change in fewer than one case of 20 (one-sided, p <
0.05, not corrected for the number of speakers).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated

import numpy as np
from pydantic import Field

from adaptkit.scoring.counts import Count, Percent

SIGNIFICANT = 0.05  # p-values below are called significant
NUM_WORST = 5
_MOST_EXACT = 4000  # the sum of changes up to which the distribution is exact
# Beyond that sum it is exact for so few changes, and approximated as normal for more: the normal tail is then
# never below 2^-n, the least probability of n signs.
_MOST_SIGNS = 12

Amount = Annotated[float, Field(ge=0, le=1e12, allow_inf_nan=False)]


@dataclass(frozen=True)
class SpeakerChange:
    """The change in a speaker's WER in percentage points, its one-sided p-value and its number of words."""

    speaker: str
    points: Percent
    p_value: Percent
    words: Count


@dataclass(frozen=True)
class SpeakerChanges:
    """Numbers of speakers whose WER fell, stayed and rose, as means over pairs of runs."""

    num_speakers: Annotated[int, Field(ge=1, le=10**9)]
    improved: Amount
    equal: Amount
    harmed: Amount
    harmed_by_chance: Amount  # expected if each utterance's change and its opposite were equally likely
    improved_significantly: Amount
    harmed_significantly: Amount
    significantly_by_chance: Amount  # expected for either, likewise
    worst: tuple[SpeakerChange, ...]  # the most harmed ones, over all runs together

    def share(self, number: float) -> str:
        """Format a number of speakers as their share in percent.

        >>> SpeakerChanges(8, 3, 3, 2, 3.5, 1, 0, 0.2, ()).share(2)
        '25.0 %'
        """
        return f"{100 * number / self.num_speakers:.1f} %"


@dataclass(frozen=True)
class _Chance:
    """The sum of a speaker's changes by chance, that is, with random signs that are equally likely."""

    positive: float  # probability of a sum above 0
    significant: float  # probability of a sum whose p-value is significant
    deviation: float  # standard deviation of the sum
    sums: np.ndarray | None = None  # the possible sums, ascending; None if approximated as normal
    tails: np.ndarray | None = None  # probability of each of these sums or more

    def p_value(self, total: int) -> float:
        """Return the probability of a sum of `total` or more."""
        if self.sums is None:
            return 0.5 * math.erfc((total - 1) / self.deviation / math.sqrt(2))  # sums are 2 apart
        return float(min(1.0, self.tails[np.searchsorted(self.sums, total)]))


def count_speakers(pairs: Sequence[Mapping[str, Sequence[int]]]) -> dict[str, float]:
    """Count the speakers by the changes in errors of their utterances, as means over pairs of runs.

    Each pair maps a speaker to the errors of one run minus those of the other, utterance by utterance.
    """
    counts = dict.fromkeys(
        (
            *("improved", "equal", "harmed", "harmed_by_chance"),
            *("improved_significantly", "harmed_significantly", "significantly_by_chance"),
        ),
        0.0,
    )
    for changes in pairs:
        for own in changes.values():
            total, chance = _add_up(own)
            counts["harmed" if total > 0 else "improved" if total < 0 else "equal"] += 1
            counts["harmed_by_chance"] += chance.positive
            counts["harmed_significantly"] += chance.p_value(total) < SIGNIFICANT
            counts["improved_significantly"] += chance.p_value(-total) < SIGNIFICANT
            counts["significantly_by_chance"] += chance.significant
    return {name: round(number / len(pairs), 4) for name, number in counts.items()}


def p_value(changes: Sequence[int]) -> float:
    """Return the probability that changes with random signs harm a speaker at least as much.

    >>> p_value([1, 1, 1, 1, 0]), p_value([1, -1])
    (0.0625, 0.75)
    """
    total, chance = _add_up(changes)
    return chance.p_value(total)


def _add_up(changes: Sequence[int]) -> tuple[int, _Chance]:
    """Return the sum of changes, in units of their greatest common divisor, and its chance distribution."""
    unit = math.gcd(*changes) or 1
    sizes = tuple(sorted(abs(change) // unit for change in changes if change))
    return sum(changes) // unit, _distribution(sizes)


@lru_cache(maxsize=1 << 14)
def _distribution(sizes: tuple[int, ...]) -> _Chance:
    """Return the distribution of the sum of numbers of these sizes with random signs."""
    deviation = math.sqrt(sum(size * size for size in sizes))
    if sum(sizes) <= _MOST_EXACT:
        sums, shares = np.arange(-sum(sizes), sum(sizes) + 1), _convolve(sizes)
    elif len(sizes) <= _MOST_SIGNS and sum(sizes) < 2**62:  # of 64-bit integers
        sums, shares = _enumerate(sizes)
    else:
        zero = 0.0 if sum(sizes) % 2 else math.erf(1 / deviation / math.sqrt(2))
        return _Chance((1 - zero) / 2, SIGNIFICANT, deviation)
    tails = np.cumsum(shares[::-1])[::-1]
    significant = tails[tails < SIGNIFICANT]
    return _Chance(
        float(shares[sums > 0].sum()), float(significant.max(initial=0)), deviation, sums=sums, tails=tails
    )


def _convolve(sizes: Sequence[int]) -> np.ndarray:
    """Return the probability of each sum of numbers of these sizes, from the lowest sum to the highest."""
    shares = np.ones(1)
    for size in sizes:
        padding = np.zeros(2 * size)
        shares = (np.concatenate([shares, padding]) + np.concatenate([padding, shares])) / 2
    return shares


def _enumerate(sizes: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return the possible sums, ascending, and their probabilities from every choice of signs."""
    sums = np.zeros(1, int)
    for size in sizes:
        sums = np.concatenate([sums - size, sums + size])
    possible, counts = np.unique(sums, return_counts=True)
    return possible, counts / len(sums)
