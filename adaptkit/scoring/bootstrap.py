"""Bootstrap resampling of error counts over speakers and utterances.

Utterances of one speaker are not independent (Liu and Peng, Statistical testing on ASR performance via
blockwise bootstrap, 2020, arXiv:1912.09508). Each resample therefore draws speakers with replacement, as many
as there are, and for each of them utterances with replacement, as many as the speaker has. With a single
speaker this is the bootstrap over utterances of Bisani and Ney, Bootstrap estimates for confidence intervals
in ASR performance evaluation, 2004, https://doi.org/10.1109/ICASSP.2004.1326009. Resampling at both levels is
slightly conservative (Davison and Hinkley, Bootstrap methods and their application, 1997, section 3.8), and
an interval from fewer than about ten speakers says little about other speakers.
"""

from collections.abc import Sequence

import numpy as np

NUM_RESAMPLES = 1000
LEVEL = 95  # percent of resamples inside an interval
_DRAWS_AT_ONCE = 2_000_000  # utterances per block: limits memory to some tens of MB


def resample(values: np.ndarray, speakers: Sequence[str], seed: int) -> np.ndarray:
    """Return the sums of `values` (utterances, columns) over each resample: (NUM_RESAMPLES, columns)."""
    generator = np.random.default_rng(seed)
    names, owners = np.unique(np.asarray(speakers), return_inverse=True)
    drawn = generator.multinomial(len(names), np.full(len(names), 1 / len(names)), size=NUM_RESAMPLES)
    sums = np.zeros((NUM_RESAMPLES, values.shape[1]))
    for speaker in range(len(names)):
        own = values[owners == speaker]
        times = np.repeat(np.arange(NUM_RESAMPLES), drawn[:, speaker])  # a resample is repeated once per draw
        for block in np.array_split(times, 1 + times.size * len(own) // _DRAWS_AT_ONCE):
            picks = generator.integers(len(own), size=(block.size, len(own)))
            np.add.at(sums, block, own[picks].sum(axis=1))
    return sums


def interval(samples: np.ndarray) -> tuple[float, float]:
    """Return the percentiles between which LEVEL percent of the samples lie."""
    tail = (100 - LEVEL) / 2
    low, high = np.percentile(samples, [tail, 100 - tail])
    return float(low), float(high)


def p_value(differences: np.ndarray) -> float:
    """Return the two-sided p-value of 'no difference': twice the share of the rarer sign among resamples.

    One is added to both counts so that it is never 0 (Davison and Hinkley, 1997, section 4.2).
    """
    rarer = min((differences <= 0).sum(), (differences >= 0).sum())
    return float(min(1.0, 2 * (1 + rarer) / (1 + len(differences))))
