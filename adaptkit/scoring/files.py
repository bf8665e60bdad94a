"""Score `text` files and write the results to RESULT, in Kaldi's format, and score.json."""

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from adaptkit import locks
from adaptkit.errors import ScoringError, listed
from adaptkit.files import read_text, write_text
from adaptkit.folders import DecodeFolder
from adaptkit.kaldi.tables import read_table
from adaptkit.scoring.bootstrap import LEVEL, NUM_RESAMPLES
from adaptkit.scoring.wer import (
    Difference,
    ErrorCounts,
    ScoreReport,
    UtteranceScore,
    compare,
    group_by_speaker,
    score,
)
from adaptkit.tables import aligned


def score_files(
    ref: Path, hyp: Path, *, utt2spk: Path | None = None, other: Path | None = None, seed: int = 0
) -> ScoreReport:
    """Score hypotheses, a decode folder or a `text` file, against a data directory or a `text` file.

    Speakers are read from `utt2spk`, by default the data directory's; without it there is a single speaker.
    With `other` hypotheses the report contains the difference from them.
    """
    is_folder = ref.is_dir()
    refs = read_table(ref / "text" if is_folder else ref)
    utt2spk = utt2spk or (ref / "utt2spk" if is_folder else None)
    speakers = read_table(utt2spk) if utt2spk else None

    def score_one(path: Path) -> ScoreReport:
        return score(refs, _read_hypotheses(path), speakers=speakers, seed=seed, where=str(path))

    report = score_one(hyp)
    if other is None:
        return report
    return replace(report, difference=compare(report, score_one(other), name=str(other), seed=seed))


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
    try:
        return from_json(json.loads(read_text(path)))
    except (json.JSONDecodeError, ScoringError) as error:
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
    """Convert the output of `to_json` back to a report; ScoringError if a field is missing or invalid."""
    try:
        return TypeAdapter(ScoreReport).validate_python(data)
    except ValidationError as error:
        wrong = [f"{'.'.join(map(str, e['loc']))}: {e['msg'].lower()}" for e in error.errors()]
        raise ScoringError(f"not a score report: {listed(wrong)}") from None


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


def _read_hypotheses(path: Path) -> dict[str, str]:
    text = DecodeFolder(path).text
    if path.is_dir() and not text.exists():
        raise ScoringError(f"{path}: contains no hypotheses (text); 'adaptkit decode' writes them")
    return read_table(text if path.is_dir() else path)


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
