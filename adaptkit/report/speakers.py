"""The error rates of speakers in a report: each of a few; of many, their distribution and the worst ten."""

from collections.abc import Sequence

import numpy as np

from adaptkit.report.runs import ExperimentResult
from adaptkit.report.sections import Section

MOST_SPEAKERS = 30  # with a row or bars each
NUM_WORST = 10
_QUANTILES = {"lowest": 0, "5 %": 5, "25 %": 25, "median": 50, "75 %": 75, "95 %": 95, "highest": 100}


def list_rate_sections(results: Sequence[ExperimentResult]) -> list[Section]:
    """Return the WER by speaker, a column per experiment; of many, quantiles, and the worst of the best."""
    by_speaker = [
        {speaker: counts.rate for speaker, counts in result.score.by_speaker.items()} for result in results
    ]
    names = [result.name for result in results]
    if not has_many(results):
        return [_section("WER by speaker", ["speaker", *names], by_speaker, list(by_speaker[0]))]
    quantiles = [
        dict(zip(_QUANTILES, np.percentile(list(rates.values()), list(_QUANTILES.values())), strict=True))
        for rates in by_speaker
    ]
    best = find_best(results)
    chosen = by_speaker[[result is best for result in results].index(True)]
    worst = sorted(chosen, key=lambda speaker: (-chosen[speaker], speaker))[:NUM_WORST]
    csv = "--format csv lists every speaker."
    return [
        _section("WER by speaker", ["of all speakers", *names], quantiles, list(_QUANTILES)),
        _section(f"Highest WER with {best.name}", ["speaker", *names], by_speaker, worst, [csv]),
    ]


def has_many(results: Sequence[ExperimentResult]) -> bool:
    """Whether the speakers are too many for a row each."""
    return len(results[0].score.by_speaker) > MOST_SPEAKERS


def find_best(results: Sequence[ExperimentResult]) -> ExperimentResult:
    """Return the experiment with the lowest WER, the first of several."""
    return min(results, key=lambda result: result.score.total.rate)


def _section(
    title: str,
    head: Sequence[str],
    columns: Sequence[dict[str, float]],
    rows: Sequence[str],
    notes: Sequence[str] = (),
) -> Section:
    body = [[(row, ""), *((f"{rates[row]:.2f}", "") for rates in columns)] for row in rows]
    return Section(title, [[(cell, "") for cell in head], *body], list(notes))
