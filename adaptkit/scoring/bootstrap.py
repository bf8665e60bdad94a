"""Bootstrap resampling of error counts over speakers and utterances.

Utterances of one speaker are not independent (Liu and Peng, Statistical testing on ASR performance via
blockwise bootstrap, 2020, arXiv:1912.09508). Each resample therefore draws speakers with replacement, as many
as there are, and for each of them utterances with replacement, as many as the speaker has. With a single
speaker this is the bootstrap over utterances of Bisani and Ney, Bootstrap estimates for confidence intervals
in ASR performance evaluation, 2004, https://doi.org/10.1109/ICASSP.2004.1326009. Resampling at both levels is
slightly conservative (Davison and Hinkley, Bootstrap methods and their application, 1997, section 3.8).
Intervals from fewer than about ten speakers say little about other speakers.

Resamples of changes in one direction all have that direction, however few the changes are. A p-value is
therefore at least that of a sign test in which all changes agree (Gibbons and Chakraborti, Nonparametric
statistical inference, 2010, chapter 5).
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

NUM_RESAMPLES = 1000
LEVEL = 95  # percent of resamples inside an interval
_MOST_KEPT = 200  # up to this number of utterances, draws are kept for other speakers with as many: 1.6 MB
_DRAWS_AT_ONCE = 2_000_000  # utterances per block, to limit memory to some tens of MB


def resample(values: np.ndarray, speakers: Sequence[str], seed: int) -> np.ndarray:
    """Return the sums of `values` (utterances, columns) over each resample: (NUM_RESAMPLES, columns)."""
    names, owners = np.unique(np.asarray(speakers), return_inverse=True)
    if len(names) == 1 and len(values) <= _MOST_KEPT:
        return _count_draws(len(values), seed) @ values
    generator = np.random.default_rng(seed)
    drawn = generator.multinomial(len(names), np.full(len(names), 1 / len(names)), size=NUM_RESAMPLES)
    sums = np.zeros((NUM_RESAMPLES, values.shape[1]))
    of_speaker = np.split(values[np.argsort(owners, kind="stable")], np.cumsum(np.bincount(owners))[:-1])
    for speaker, own in enumerate(of_speaker):
        times = np.repeat(np.arange(NUM_RESAMPLES), drawn[:, speaker])  # a resample is repeated once per draw
        for block in np.array_split(times, 1 + times.size * len(own) // _DRAWS_AT_ONCE):
            picks = generator.integers(len(own), size=(block.size, len(own)))
            np.add.at(sums, block, own[picks].sum(axis=1))
    return sums


@lru_cache(maxsize=64)
def _count_draws(num_utterances: int, seed: int) -> np.ndarray:
    """Count how often each resample draws each utterance of one speaker: (NUM_RESAMPLES, utterances)."""
    generator = np.random.default_rng(seed)
    picks = generator.integers(num_utterances, size=(NUM_RESAMPLES, num_utterances))
    counts = np.zeros(picks.shape)
    np.add.at(counts, (np.arange(NUM_RESAMPLES)[:, None], picks), 1)
    return counts


def interval(samples: np.ndarray) -> tuple[float, float]:
    """Return the percentiles between which LEVEL percent of the samples lie."""
    tail = (100 - LEVEL) / 2
    low, high = np.percentile(samples, [tail, 100 - tail])
    return float(low), float(high)


def p_value(differences: np.ndarray) -> float:
    """Return the two-sided p-value of 'no difference': twice the share of the rarer sign among resamples.

    Both counts are increased by one, so that the p-value is never 0 (Davison and Hinkley, 1997, section 4.2).
    """
    rarer = min((differences <= 0).sum(), (differences >= 0).sum())
    return float(min(1.0, 2 * (1 + rarer) / (1 + len(differences))))


def lowest_p(num_changed: int) -> float:
    """Return the lowest two-sided p-value that some changed units allow: that all signs agree by chance.

    The units are speakers, or utterances where there is a single speaker.

    >>> lowest_p(1), lowest_p(6)
    (1.0, 0.03125)
    """
    return min(1.0, 2.0 ** (1 - num_changed))
