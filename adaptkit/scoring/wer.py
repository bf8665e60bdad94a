"""Word and character error rates, overall, by speaker and by group, with confidence intervals."""

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
from adaptkit.scoring.counts import ErrorCounts, Percent, add_up, count_chars, count_chunks
from adaptkit.scoring.origin import Source
from adaptkit.scoring.speakers import SpeakerChanges

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
class Intervals:
    """The confidence intervals of a word and a character error rate."""

    words: Interval
    chars: Interval


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
    group: str = ""  # empty without groups


@dataclass(frozen=True)
class Difference:
    """The WER of a system minus that of another on the same utterances, in percentage points."""

    other: str  # the name of the other system
    points: Percent
    interval: Interval
    p_value: Percent  # two-sided, for no difference
    speakers: SpeakerChanges | None = None  # None if there is only one


@dataclass(frozen=True)
class ScoreReport:
    """Error counts of every utterance and confidence intervals of the error rates."""

    utterances: tuple[UtteranceScore, ...]
    interval: Interval  # from resampling speakers, and utterances of each
    speaker_intervals: Mapping[str, Interval]  # from resampling the utterances of that speaker
    difference: Difference | None = None  # from another system, if one was given
    chars_interval: Interval | None = None  # of the character error rate; None in scores of earlier versions
    group_intervals: Mapping[str, Intervals] = field(default_factory=dict)  # from resampling within the group
    group_differences: Mapping[str, Difference] = field(default_factory=dict)  # as `difference`
    num_runs: Annotated[int, Field(ge=1, le=10**6)] = 1  # runs whose counts are summed
    normalize: tuple[str, ...] = ()  # normal forms applied to both sides
    sources: Mapping[str, Source] = field(default_factory=dict)  # `ref`, `hyp`, `utt2spk`, `utt2group`

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

    @property
    def groups(self) -> list[str]:
        """The groups of utterances, sorted by name; none if the data has none."""
        return sorted(self.group_intervals, key=str.encode)

    def of_group(self, group: str) -> "ScoreReport":
        """Return the score of the utterances of a group, without intervals by speaker."""
        utterances = tuple(u for u in self.utterances if u.group == group)
        own = self.group_intervals[group]
        return ScoreReport(
            utterances,
            own.words,
            {},
            chars_interval=own.chars,
            num_runs=self.num_runs,
            normalize=self.normalize,
        )


def score(
    refs: Mapping[str, str],
    hyps: Mapping[str, str],
    *,
    speakers: Mapping[str, str] | None = None,
    groups: Mapping[str, str] | None = None,
    normalize: Sequence[str] = (),
    seed: int = 0,
    where: str = "the hypotheses",
) -> ScoreReport:
    """Score hypotheses against references, all keyed by utterance id; `where` names them in messages.

    A missing or extra utterance is a ScoringError, as is a reference without words; an empty hypothesis
    counts as deletions. `speakers` and `groups` are by utterance too. Words are separated by white space;
    `normalize` names normal forms of `characters`, which are applied to both sides.

    >>> report = score({"ann-1": "turn it off", "bob-1": "stop"}, {"ann-1": "turn off", "bob-1": "stop"})
    >>> report.rate.wer
    25.0
    """
    if not all(isinstance(side, Mapping) for side in (refs, hyps)):
        raise ScoringError(f"{where}: expected texts by utterance id; dict(enumerate(texts)) numbers a list")
    refs, hyps = (
        {str(utt_id): normalise(text, normalize) for utt_id, text in side.items()} for side in (refs, hyps)
    )
    _refuse_unpaired(refs, hyps, where)
    utt_ids = sorted(refs, key=str.encode)
    owners = _find("utt2spk", utt_ids, speakers) or dict.fromkeys(utt_ids, ONE_SPEAKER)
    group_of = _find("utt2group", utt_ids, groups or None)
    ref_texts, hyp_texts = ([" ".join(split_words(side[u])) for u in utt_ids] for side in (refs, hyps))
    words = jiwer.process_words(ref_texts, hyp_texts)
    pairs = map(_pair_words, words.references, words.hypotheses, words.alignments)
    counts = zip(map(count_chunks, words.alignments), count_chars(ref_texts, hyp_texts), pairs, strict=True)
    utterances = tuple(
        UtteranceScore(u, owners[u], *one, group_of.get(u, ""))
        for u, one in zip(utt_ids, counts, strict=True)
    )
    return replace(_report(utterances, seed), normalize=tuple(normalize))


def pool(reports: Sequence[ScoreReport], *, seed: int = 0) -> ScoreReport:
    """Sum the counts of several runs on the same references into one report.

    A resample draws an utterance with all its runs, so the intervals do not cover the variation of runs.
    """
    if len(reports) == 1:
        return reports[0]
    for other in reports[1:]:
        refuse_other_references(reports[0], other, "a run")
    utterances = tuple(
        replace(
            same[0], words=add_up(u.words for u in same), chars=add_up(u.chars for u in same), alignment=()
        )
        for same in pair_up(*reports)
    )
    pooled = _report(utterances, seed, num_runs=sum(report.num_runs for report in reports))
    return replace(pooled, normalize=reports[0].normalize)


def group_by_speaker(utterances: Iterable[UtteranceScore]) -> dict[str, list[UtteranceScore]]:
    """Group the utterances by speaker, sorted by name."""
    return _group_by(utterances, "speaker")


def _group_by(utterances: Iterable[UtteranceScore], name: str) -> dict[str, list[UtteranceScore]]:
    parts = defaultdict(list)
    for utterance in utterances:
        parts[getattr(utterance, name)].append(utterance)
    return {key: parts[key] for key in sorted(parts, key=str.encode)}


def _refuse_unpaired(refs: Mapping[str, str], hyps: Mapping[str, str], where: str) -> None:
    """Refuse utterances on one side only, and references without words."""
    missing, extra = sorted(set(refs) - set(hyps)), sorted(set(hyps) - set(refs))
    wordless = sorted(utt_id for utt_id, text in refs.items() if not split_words(text))
    problems = [
        f"{what} {listed(utt_ids)} ({len(utt_ids)} of {len(refs)}); {remedy}"
        for what, utt_ids, remedy in (
            ("no hypothesis for", missing, "decode the whole set again"),
            ("no reference for", extra, "score against the set that was decoded, or decode this set again"),
            ("empty reference for", wordless, "drop these with 'adaptkit data fix' and decode the set again"),
        )
        if utt_ids
    ]
    if not refs:
        problems = ["there are no references at all; score against the set that was decoded"]
    if problems:
        raise ScoringError("\n".join(f"{where}: {problem}" for problem in problems))


def _find(name: str, utt_ids: Sequence[str], table: Mapping[str, str] | None) -> dict[str, str]:
    """Return the entries of a table, `name`, for some utterances; empty without a table."""
    if table is None:
        return {}
    table = {str(utt_id): value for utt_id, value in table.items()}  # as those of the texts
    unknown = [utt_id for utt_id in utt_ids if not table.get(utt_id)]
    if unknown:
        line = f"'utterance {'speaker' if name == 'utt2spk' else 'group'}'"
        raise ScoringError(f"{name}: missing {listed(unknown)}; add a line {line} for each")
    return {utt_id: table[utt_id] for utt_id in utt_ids}


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
    whole = _estimate_intervals(utterances, seed)
    by_speaker = {s: _estimate_intervals(own, seed) for s, own in group_by_speaker(utterances).items()}
    groups = _group_by(utterances, "group") if utterances[0].group else {}
    return ScoreReport(
        utterances,
        whole.words,
        {speaker: intervals.words for speaker, intervals in by_speaker.items()},
        chars_interval=whole.chars,
        group_intervals={group: _estimate_intervals(own, seed) for group, own in groups.items()},
        num_runs=num_runs,
    )


def refuse_other_references(report: ScoreReport, other: ScoreReport, name: str) -> None:
    """Refuse another report, called `name`, unless its utterances and their numbers of words are the same."""
    refs, others = (
        {u.utt_id: u.words.words // side.num_runs for u in side.utterances} for side in (report, other)
    )
    if refs != others:
        unlike = [u for u in refs.keys() | others.keys() if refs.get(u) != others.get(u)]
        what = f"was not scored on the same references ({listed(sorted(unlike))})"
        raise ScoringError(f"{name}: {what}; score both against one set")
    if report.normalize != other.normalize:
        raise ScoringError(f"{name}: normalised differently; score both with the same --normalize")


def pair_up(first: ScoreReport, *others: ScoreReport) -> list[tuple[UtteranceScore, ...]]:
    """Return the scores of each utterance in all reports, side by side."""
    known = [{u.utt_id: u for u in report.utterances} for report in others]
    return [(u, *(side[u.utt_id] for side in known)) for u in first.utterances]


def _estimate_intervals(utterances: Sequence[UtteranceScore], seed: int) -> Intervals:
    counts = [(u.words.errors, u.words.words, u.chars.errors, u.chars.words) for u in utterances]
    sums = bootstrap.resample(np.array(counts), [u.speaker for u in utterances], seed)
    words, chars = (bounds(100 * sums[:, column] / sums[:, column + 1]) for column in (0, 2))
    return Intervals(words, chars)


def bounds(samples: np.ndarray) -> Interval:
    """Return the interval of samples in percent; more decimals would be resampling noise."""
    low, high = bootstrap.interval(samples)
    return Interval(round(low, 2), round(high, 2))
