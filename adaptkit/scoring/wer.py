"""Word and character error rates per speaker, with confidence intervals and significance of differences."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated

import jiwer
import numpy as np
from pydantic import Field

from adaptkit.characters import normalise, split_words
from adaptkit.errors import ScoringError, listed
from adaptkit.scoring import bootstrap
from adaptkit.scoring.counts import ErrorCounts, add_up, count_chars, count_chunks
from adaptkit.scoring.origin import Source

Percent = Annotated[float, Field(ge=-1e12, le=1e12, allow_inf_nan=False)]
ONE_SPEAKER = "all"  # the speaker of every utterance if speakers are not given


@dataclass(frozen=True)
class Interval:
    """A bootstrap confidence interval at 95 %, bounds in percent.

    >>> str(Interval(low=9.5, high=12.0))
    '9.50 to 12.00'
    """

    low: Percent
    high: Percent

    def __str__(self) -> str:
        return f"{self.low:.2f} to {self.high:.2f}"


@dataclass(frozen=True)
class ErrorRate:
    """A word error rate with its 95 % confidence bounds, all in percent."""

    wer: float
    low: float
    high: float


@dataclass(frozen=True)
class UtteranceScore:
    """The error counts of one utterance; `alignment` pairs its words, None if one side has no word."""

    utt_id: str
    speaker: str
    words: ErrorCounts
    chars: ErrorCounts
    alignment: tuple[tuple[str | None, str | None], ...] = ()  # (ref, hyp)


@dataclass(frozen=True)
class Difference:
    """The WER of a system minus that of another on the same utterances, in percentage points."""

    other: str  # the name of the other system
    points: Percent
    interval: Interval
    p_value: Percent  # two-sided, for no difference


@dataclass(frozen=True)
class ScoreReport:
    """Error counts of every utterance and confidence intervals of the word error rate."""

    utterances: tuple[UtteranceScore, ...]
    interval: Interval  # from resampling speakers, and utterances of each
    speaker_intervals: Mapping[str, Interval]  # from resampling the utterances of that speaker
    difference: Difference | None = None  # from another system, if one was given
    num_runs: Annotated[int, Field(ge=1, le=10**6)] = 1  # that recognised each utterance; counts are summed
    normalize: tuple[str, ...] = ()  # normal forms that were applied to both sides
    sources: Mapping[str, Source] = field(default_factory=dict)  # `ref`, `hyp` and `utt2spk`

    @property
    def total(self) -> ErrorCounts:
        """The word error counts of all utterances."""
        return add_up(u.words for u in self.utterances)

    @property
    def rate(self) -> ErrorRate:
        """The word error rate with its interval."""
        return ErrorRate(round(self.total.rate, 2), self.interval.low, self.interval.high)

    @property
    def chars(self) -> ErrorCounts:
        """The character error counts of all utterances."""
        return add_up(u.chars for u in self.utterances)

    @property
    def by_speaker(self) -> dict[str, ErrorCounts]:
        """The word error counts of each speaker, sorted by name."""
        groups = group_by_speaker(self.utterances)
        return {speaker: add_up(u.words for u in own) for speaker, own in groups.items()}


def score(
    refs: Mapping[str, str],
    hyps: Mapping[str, str],
    *,
    speakers: Mapping[str, str] | None = None,
    normalize: Sequence[str] = (),
    seed: int = 0,
    where: str = "the hypotheses",
) -> ScoreReport:
    """Score hypotheses against references, all keyed by utterance id; `where` names them in messages.

    A missing or extra utterance is a ScoringError, as is a reference without words; an empty hypothesis
    counts as deletions. Words are separated by white space; `normalize` names normal forms of `characters`,
    which are applied to both sides.
    """
    refs, hyps = (
        {utt_id: normalise(text, normalize) for utt_id, text in side.items()} for side in (refs, hyps)
    )
    _refuse_unpaired(refs, hyps, where)
    utt_ids = sorted(refs, key=str.encode)
    owners = _find_speakers(utt_ids, speakers)
    ref_texts, hyp_texts = ([" ".join(split_words(side[u])) for u in utt_ids] for side in (refs, hyps))
    words = jiwer.process_words(ref_texts, hyp_texts)
    pairs = map(_pair_words, words.references, words.hypotheses, words.alignments)
    counts = zip(map(count_chunks, words.alignments), count_chars(ref_texts, hyp_texts), pairs, strict=True)
    utterances = tuple(UtteranceScore(u, owners[u], *one) for u, one in zip(utt_ids, counts, strict=True))
    return replace(_report(utterances, seed), normalize=tuple(normalize))


def pool(reports: Sequence[ScoreReport], *, seed: int = 0) -> ScoreReport:
    """Sum the counts of several runs on the same references into one report.

    A resample draws an utterance with all its runs, so the intervals do not cover the variation of runs.
    """
    if len(reports) == 1:
        return reports[0]
    for other in reports[1:]:
        _refuse_other_references(reports[0], other, "a run")
    utterances = tuple(
        replace(
            same[0], words=add_up(u.words for u in same), chars=add_up(u.chars for u in same), alignment=()
        )
        for same in _matched(*reports)
    )
    pooled = _report(utterances, seed, num_runs=sum(report.num_runs for report in reports))
    return replace(pooled, normalize=reports[0].normalize)


def group_by_speaker(utterances: Iterable[UtteranceScore]) -> dict[str, list[UtteranceScore]]:
    """Group the utterances by speaker, sorted by name."""
    groups = defaultdict(list)
    for utterance in utterances:
        groups[utterance.speaker].append(utterance)
    return {speaker: groups[speaker] for speaker in sorted(groups, key=str.encode)}


def compare(report: ScoreReport, other: ScoreReport, *, name: str, seed: int = 0) -> Difference:
    """Estimate the WER of `report` minus that of `other`, called `name`: negative where `report` is better.

    This is the paired bootstrap of Bisani and Ney, 2004: each resample draws the same utterances for both.
    The numbers of runs may differ, since the errors of each side are divided by its own words.
    """
    _refuse_other_references(report, other, name)
    table = [
        (a.words.errors, a.words.words, b.words.errors, b.words.words) for a, b in _matched(report, other)
    ]
    sums = bootstrap.resample(np.array(table), [u.speaker for u in report.utterances], seed)
    samples = 100 * (sums[:, 0] / sums[:, 1] - sums[:, 2] / sums[:, 3])
    points = report.total.rate - other.total.rate
    return Difference(name, round(points, 2), _bounds(samples), bootstrap.p_value(samples))


def _refuse_unpaired(refs: Mapping[str, str], hyps: Mapping[str, str], where: str) -> None:
    """Refuse utterances that are on one side only, and references without words."""
    missing, extra = sorted(set(refs) - set(hyps)), sorted(set(hyps) - set(refs))
    wordless = sorted(utt_id for utt_id, text in refs.items() if not split_words(text))
    problems = [
        f"{what} {listed(utt_ids)} ({len(utt_ids)} of {len(refs)}); {remedy}"
        for what, utt_ids, remedy in (
            ("no hypothesis for", missing, "decode the whole set again"),
            ("no reference for", extra, "score against the set that was decoded"),
            ("empty reference for", wordless, "drop these with 'adaptkit data fix'"),
        )
        if utt_ids
    ]
    if not refs:
        problems = ["there are no references at all; score against the set that was decoded"]
    if problems:
        raise ScoringError("\n".join(f"{where}: {problem}" for problem in problems))


def _find_speakers(utt_ids: Sequence[str], speakers: Mapping[str, str] | None) -> dict[str, str]:
    if speakers is None:
        return dict.fromkeys(utt_ids, ONE_SPEAKER)
    unknown = [utt_id for utt_id in utt_ids if utt_id not in speakers]
    if unknown:
        raise ScoringError(f"utt2spk: missing {listed(unknown)}; add a line 'utterance speaker' for each")
    return {utt_id: speakers[utt_id] for utt_id in utt_ids}


def _pair_words(
    ref: Sequence[str], hyp: Sequence[str], chunks: Iterable[jiwer.AlignmentChunk]
) -> tuple[tuple[str | None, str | None], ...]:
    pairs = []
    for chunk in chunks:
        refs, hyps = (
            ref[chunk.ref_start_idx : chunk.ref_end_idx],
            hyp[chunk.hyp_start_idx : chunk.hyp_end_idx],
        )
        size = max(len(refs), len(hyps))  # a substitution has the same length on both sides
        pairs += zip(refs or [None] * size, hyps or [None] * size, strict=True)
    return tuple(pairs)


def _report(utterances: tuple[UtteranceScore, ...], seed: int, num_runs: int = 1) -> ScoreReport:
    intervals = {name: _estimate_interval(own, seed) for name, own in group_by_speaker(utterances).items()}
    return ScoreReport(utterances, _estimate_interval(utterances, seed), intervals, num_runs=num_runs)


def _refuse_other_references(report: ScoreReport, other: ScoreReport, name: str) -> None:
    """Refuse another report, called `name`, unless it has the same utterances with as many words."""
    refs, others = (
        {u.utt_id: u.words.words // side.num_runs for u in side.utterances} for side in (report, other)
    )
    if refs != others:
        unlike = [u for u in refs.keys() | others.keys() if refs.get(u) != others.get(u)]
        what = f"was not scored on the same references ({listed(sorted(unlike))})"
        raise ScoringError(f"{name}: {what}; score both against one set")
    if report.normalize != other.normalize:
        raise ScoringError(f"{name}: not normalised alike; score both with the same --normalize")


def _matched(first: ScoreReport, *others: ScoreReport) -> list[tuple[UtteranceScore, ...]]:
    """Return the scores of each utterance in all reports, side by side."""
    known = [{u.utt_id: u for u in report.utterances} for report in others]
    return [(u, *(side[u.utt_id] for side in known)) for u in first.utterances]


def _estimate_interval(utterances: Sequence[UtteranceScore], seed: int) -> Interval:
    table = np.array([(u.words.errors, u.words.words) for u in utterances])
    sums = bootstrap.resample(table, [u.speaker for u in utterances], seed)
    return _bounds(100 * sums[:, 0] / sums[:, 1])


def _bounds(samples: np.ndarray) -> Interval:
    """Return the interval of samples in percent; more decimals would be resampling noise."""
    low, high = bootstrap.interval(samples)
    return Interval(round(low, 2), round(high, 2))
