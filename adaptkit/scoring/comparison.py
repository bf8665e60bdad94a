"""Compare the scores of two systems on the same references: overall, by group, and speaker by speaker."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from adaptkit.scoring import bootstrap, speakers
from adaptkit.scoring.speakers import SpeakerChange, SpeakerChanges
from adaptkit.scoring.wer import Difference, ScoreReport, bounds, pair_up, refuse_other_references

Pair = tuple[ScoreReport, ScoreReport]


def compare(
    report: ScoreReport, other: ScoreReport, *, name: str, seed: int = 0, runs: Sequence[Pair] = ()
) -> Difference:
    """Estimate the WER of `report` minus that of `other`, called `name`: negative where `report` is better.

    This is the paired bootstrap of Bisani and Ney, 2004: each resample draws the same utterances for both.
    The p-value is at least that of a sign test over the speakers whose errors changed, or over the utterances
    of a single speaker. The numbers of runs may differ, since the errors of each side are divided by its own
    words. `runs` pairs the single runs from which both were pooled, if any, to count speakers in each pair.
    """
    refuse_other_references(report, other, name)
    table = [
        (a.words.errors, a.words.words, b.words.errors, b.words.words) for a, b in pair_up(report, other)
    ]
    sums = bootstrap.resample(np.array(table), [u.speaker for u in report.utterances], seed)
    samples = 100 * (sums[:, 0] / sums[:, 1] - sums[:, 2] / sums[:, 3])
    points = report.total.rate - other.total.rate
    p_value = max(bootstrap.p_value(samples), bootstrap.lowest_p(_count_changed(report, other)))
    changes = _count_speakers((report, other), runs)
    return Difference(name, round(points, 2), bounds(samples), p_value, changes)


def compare_groups(
    report: ScoreReport, other: ScoreReport, *, name: str, seed: int = 0
) -> dict[str, Difference]:
    """Compare two systems within each group of utterances, as `compare` does over all."""
    refuse_other_references(report, other, name)
    return {
        group: compare(report.of_group(group), other.of_group(group), name=name, seed=seed)
        for group in report.groups
    }


def _count_changed(report: ScoreReport, other: ScoreReport) -> int:
    """Count the speakers whose errors changed in sum, or the changed utterances if there is one speaker."""
    changes = list(_changes(report, other).values())
    return sum(map(bool, changes[0] if len(changes) == 1 else map(sum, changes)))


def _count_speakers(whole: Pair, runs: Sequence[Pair]) -> SpeakerChanges | None:
    """Count the speakers that fare better and worse; None if there is only one."""
    pooled = _changes(*whole)
    if len(pooled) == 1:
        return None
    counts = speakers.count_speakers([_changes(*pair) for pair in runs] or [pooled])
    return SpeakerChanges(num_speakers=len(pooled), worst=_find_worst(*whole), **counts)


def _changes(report: ScoreReport, other: ScoreReport) -> dict[str, list[int]]:
    """Return each speaker's differences in errors, one per utterance, times the numbers of runs."""
    changes = defaultdict(list)
    for a, b in pair_up(report, other):
        changes[a.speaker].append(a.words.errors * other.num_runs - b.words.errors * report.num_runs)
    return changes


def _find_worst(report: ScoreReport, other: ScoreReport) -> tuple[SpeakerChange, ...]:
    """Return the most harmed speakers, those with the largest rise in WER first."""
    words, changes = defaultdict(int), _changes(report, other)
    for utterance in report.utterances:
        words[utterance.speaker] += utterance.words.words // report.num_runs
    scale = report.num_runs * other.num_runs / 100
    points = {speaker: sum(own) / words[speaker] / scale for speaker, own in changes.items()}
    harmed = sorted((s for s in points if points[s] > 0), key=lambda s: (-points[s], s.encode()))
    return tuple(
        SpeakerChange(s, round(points[s], 2), round(speakers.p_value(changes[s]), 4), words[s])
        for s in harmed[: speakers.NUM_WORST]
    )
