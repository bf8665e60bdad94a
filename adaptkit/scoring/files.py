"""Score `text` files and write the results to RESULT, in Kaldi's format, and score.json."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from adaptkit import locks
from adaptkit.errors import ScoringError, listed
from adaptkit.files import parse_json, read_text, require_regular, write_text
from adaptkit.folders import DecodeFolder
from adaptkit.kaldi.tables import read_table
from adaptkit.scoring.bootstrap import LEVEL, NUM_RESAMPLES
from adaptkit.scoring.counts import ErrorCounts
from adaptkit.scoring.normal_forms import warn_of_vanishing
from adaptkit.scoring.origin import describe_source, refuse_unlike
from adaptkit.scoring.wer import (
    Difference,
    ScoreReport,
    UtteranceScore,
    compare,
    group_by_speaker,
    score,
)
from adaptkit.tables import aligned

_DERIVED = {"wer", "cer", "words", "chars", "by_speaker"}  # beside the counts, for readers of the file


def score_files(
    ref: Path,
    hyp: Path,
    *,
    utt2spk: Path | None = None,
    normalize: Sequence[str] = (),
    other: Path | None = None,
    allow_unlike: bool = False,
    seed: int = 0,
) -> ScoreReport:
    """Score hypotheses, a decode folder or a `text` file, against a data directory or a `text` file.

    Speakers are read from `utt2spk`, by default the data directory's; without it there is a single speaker.
    With `other` hypotheses the report contains the difference from them; hypotheses of another base model or
    data set are refused unless `allow_unlike` is set. Errors that a normal form would undo are logged.
    """
    if other is not None and not allow_unlike:
        refuse_unlike(hyp, other)
    ref_file, refs = read_references(ref)
    utt2spk = utt2spk or (ref / "utt2spk" if ref.is_dir() else None)
    speakers = read_table(utt2spk) if utt2spk else None

    def score_one(path: Path, hyps: Mapping[str, str]) -> ScoreReport:
        options = {"speakers": speakers, "normalize": normalize, "seed": seed, "where": str(path)}
        return score(refs, hyps, **options)

    hyps = _read_hypotheses(hyp)
    report = score_one(hyp, hyps)
    warn_of_vanishing(report, refs, hyps, where=str(hyp))
    tables = {"ref": (ref_file, refs), "hyp": (_find_text(hyp), hyps), "utt2spk": (utt2spk, speakers)}
    folder = hyp if hyp.is_dir() else hyp.parent
    sources = {
        name: describe_source(path, table, folder=folder)
        for name, (path, table) in tables.items()
        if table is not None
    }
    report = replace(report, sources=sources)
    if other is None:
        return report
    compared = score_one(other, _read_hypotheses(other))
    return replace(report, difference=compare(report, compared, name=str(other), seed=seed))


def read_references(ref: Path) -> tuple[Path, dict[str, str]]:
    """Return the file with the references and its table; a set without any is refused by name."""
    path = ref / "text" if ref.is_dir() else ref
    refs = read_table(path) if path.exists() or not ref.is_dir() else {}
    if ref.is_dir() and not any(refs.values()):
        what = "holds ids alone" if refs else "no such file, or an empty one"
        remedy = "without the words that were said, hypotheses cannot be scored; write them there"
        raise ScoringError(f"{path}: {what}: the set has no references; {remedy}")
    return path, refs


def write(report: ScoreReport, folder: Path, *, with_alignments: bool = False) -> None:
    """Write score.json and RESULT into a decode folder."""
    with locks.hold(folder):
        write_json(report, DecodeFolder(folder).score, with_alignments=with_alignments)
        write_text(DecodeFolder(folder).result, format_report(report, with_alignments=with_alignments))


def write_json(report: ScoreReport, path: Path, *, with_alignments: bool = False) -> None:
    """Write a report as json, atomically."""
    write_text(path, dump_json(report, with_alignments=with_alignments) + "\n")


def dump_json(report: ScoreReport, *, with_alignments: bool = False) -> str:
    """Return a report as a json string."""
    return json.dumps(to_json(report, with_alignments=with_alignments), indent=1, ensure_ascii=False)


def read(path: Path) -> ScoreReport:
    """Read a score.json; ScoringError if it is invalid."""
    require_regular(path)
    try:
        return from_json(parse_json(read_text(path)))
    except (ValueError, ScoringError) as error:
        raise ScoringError(f"{path}: {error}; 'adaptkit score' writes it again") from None


def to_json(report: ScoreReport, *, with_alignments: bool = False) -> dict[str, object]:
    """Return the report as json data: first the rates, then the counts they are computed from."""
    speakers = {
        name: {"wer": round(counts.rate, 2), **asdict(report.speaker_intervals[name]), **asdict(counts)}
        for name, counts in report.by_speaker.items()
    }
    fields = asdict(report)
    if not with_alignments:
        for utterance in fields["utterances"]:
            del utterance["alignment"]
    head = {"wer": round(report.total.rate, 2), "cer": round(report.chars.rate, 2)}
    totals = {"words": asdict(report.total), "chars": asdict(report.chars), "by_speaker": speakers}
    return {**head, "interval": fields.pop("interval"), **totals, **fields}


def from_json(data: Mapping[str, object]) -> ScoreReport:
    """Convert the output of `to_json` back to a report; ScoringError if a field is missing or invalid.

    Rates and sums, which are stored beside the counts, must be theirs.
    """
    try:
        report = TypeAdapter(ScoreReport).validate_python(data)
    except ValidationError as error:
        wrong = [f"{'.'.join(map(str, e['loc']))}: {e['msg'].lower()}" for e in error.errors()]
        raise ScoringError(f"not a score report: {listed(wrong)}") from None
    _refuse_contradictions(report, data)
    return report


def format_report(report: ScoreReport, *, with_alignments: bool = False) -> str:
    """Format a report as text, as written to RESULT."""
    num_speakers = len(report.by_speaker)
    whom = (
        f"{num_speakers} speakers and their utterances"
        if num_speakers > 1
        else "the utterances of one speaker"
    )
    lines = [
        rate_line("WER", report.total),
        rate_line("CER", report.chars),
        f"WER interval at {LEVEL} %: {report.interval} ({NUM_RESAMPLES} resamples of {whom})",
    ]
    if report.normalize:
        lines.append(f"Texts were normalised before: {', '.join(report.normalize)}")
    if report.difference:
        lines.append(_describe_difference(report.difference))
    lines += ["", aligned(speaker_rows(report))]
    if with_alignments:
        lines += ["", *map(_align, report.utterances)]
    return "\n".join(lines) + "\n"


def rate_line(name: str, counts: ErrorCounts) -> str:
    """Format counts as Kaldi's compute-wer does.

    >>> rate_line("WER", ErrorCounts(hits=874, subs=93, dels=30, ins=10))
    '%WER 13.34 [ 133 / 997, 10 ins, 30 del, 93 sub ]'
    """
    edits = f"{counts.ins} ins, {counts.dels} del, {counts.subs} sub"
    return f"%{name} {counts.rate:.2f} [ {counts.errors} / {counts.words}, {edits} ]"


def speaker_rows(report: ScoreReport) -> list[list[str]]:
    """Return a table with one row per speaker below its header."""
    rows = [["speaker", "utterances", "words", "ins", "del", "sub", "WER", f"{LEVEL} % interval"]]
    for speaker, own in group_by_speaker(report.utterances).items():
        counts = report.by_speaker[speaker]
        numbers = (len(own), counts.words, counts.ins, counts.dels, counts.subs, f"{counts.rate:.2f}")
        rows.append([speaker, *map(str, numbers), str(report.speaker_intervals[speaker])])
    return rows


def _refuse_contradictions(report: ScoreReport, data: Mapping[str, object]) -> None:
    """Refuse a report without words, or whose stored figures are not those of its counts."""
    utterances = report.utterances
    if not utterances or len({u.utt_id for u in utterances}) != len(utterances):
        raise ScoringError(f"{len(utterances)} utterances, none or some of them twice")
    if not all(u.words.words and u.chars.words for u in utterances):
        raise ScoringError("a reference without words")
    if report.speaker_intervals.keys() != {u.speaker for u in utterances}:
        raise ScoringError("speaker_intervals: not those of the utterances' speakers")
    unlike = [key for key, value in to_json(report).items() if key in _DERIVED and data.get(key) != value]
    if unlike:
        raise ScoringError(f"not the figures of its utterances: {listed(unlike)}")


def _find_text(path: Path) -> Path:
    return DecodeFolder(path).text if path.is_dir() else path


def _read_hypotheses(path: Path) -> dict[str, str]:
    if path.is_dir() and not _find_text(path).exists():
        raise ScoringError(f"{path}: contains no hypotheses (text); 'adaptkit decode' writes them")
    return read_table(_find_text(path))


def _describe_difference(difference: Difference) -> str:
    numbers = f"{difference.points:+.2f} ({LEVEL} %: {difference.interval}; p = {difference.p_value:.3f})"
    return f"WER minus that of {difference.other}: {numbers}"


def _align(utterance: UtteranceScore) -> str:
    """Format the word alignment of an utterance like Kaldi's per_utt file.

    The lines are reference words (ref), hypothesis words (hyp), with `***` for none, and operations (op): C
    for correct, S, I or D; the last line has the counts of these four.
    """
    columns = [(ref or "***", hyp or "***", _name_edit(ref, hyp)) for ref, hyp in utterance.alignment]
    widths = [max(map(len, column)) for column in columns]
    rows = [
        " ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in zip(*columns, strict=True)
    ]
    counts = utterance.words
    rows.append(f"{counts.hits} {counts.subs} {counts.ins} {counts.dels}")
    names = ("ref ", "hyp ", "op  ", "#csid")
    return "\n".join(f"{utterance.utt_id} {name} {row}" for name, row in zip(names, rows, strict=True))


def _name_edit(ref: str | None, hyp: str | None) -> str:
    if ref is None:
        return "I"
    if hyp is None:
        return "D"
    return "C" if ref == hyp else "S"
