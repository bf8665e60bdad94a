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
from adaptkit.kaldi.datadir import read_groups
from adaptkit.kaldi.tables import is_data_dir, read_table
from adaptkit.scoring.comparison import compare, compare_groups
from adaptkit.scoring.normal_forms import warn_of_vanishing
from adaptkit.scoring.origin import describe_source, refuse_unlike
from adaptkit.scoring.text import format_report
from adaptkit.scoring.wer import ScoreReport, score

# stored with the counts, for readers of the file
_DERIVED = {"wer", "cer", "words", "chars", "by_speaker", "by_group"}


def score_files(
    ref: Path,
    hyp: Path,
    *,
    utt2spk: Path | None = None,
    utt2group: Path | None = None,
    normalize: Sequence[str] = (),
    other: Path | None = None,
    allow_unlike: bool = False,
    seed: int = 0,
) -> ScoreReport:
    """Score hypotheses, a decode folder or a `text` file, against a data directory or a `text` file.

    Speakers are read from `utt2spk`, by default the data directory's; without it there is a single speaker.
    Groups are read from `utt2group`, by default the data directory's utt2group or spk2group, if any. With
    `other` hypotheses the report contains the differences from them; hypotheses of another base model or data
    set are refused unless `allow_unlike` is set. Errors that vanish with a normal form are logged.
    """
    _refuse_data_dirs(hyp, other)
    if other is not None and not allow_unlike:
        refuse_unlike(hyp, other)
    ref_file, refs = read_references(ref)
    utt2spk = utt2spk or (ref / "utt2spk" if ref.is_dir() else None)
    speakers = read_table(utt2spk) if utt2spk else None
    group_file, group_table, groups = _read_groups(ref, utt2group)

    def score_one(path: Path, hyps: Mapping[str, str]) -> ScoreReport:
        who = {"speakers": speakers, "groups": groups}
        return score(refs, hyps, **who, normalize=normalize, seed=seed, where=str(path))

    hyps = _read_hypotheses(hyp)
    report = score_one(hyp, hyps)
    warn_of_vanishing(report, refs, hyps, where=str(hyp))
    tables = {"ref": (ref_file, refs), "hyp": (_find_text(hyp), hyps), "utt2spk": (utt2spk, speakers)}
    if group_file:
        tables[group_file.name if utt2group is None else "utt2group"] = (group_file, group_table)
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
    return replace(
        report,
        difference=compare(report, compared, name=str(other), seed=seed),
        group_differences=compare_groups(report, compared, name=str(other), seed=seed),
    )


def read_references(ref: Path) -> tuple[Path, dict[str, str]]:
    """Return the file with the references and its table; a set without references is a ScoringError."""
    path = ref / "text" if ref.is_dir() else ref
    refs = read_table(path) if path.exists() or not ref.is_dir() else {}
    if ref.is_dir() and not any(refs.values()):
        what = "holds only ids" if refs else "no such file, or an empty one"
        remedy = "hypotheses cannot be scored without the words that were said; write them there"
        raise ScoringError(f"{path}: {what}: the set has no references; {remedy}")
    return path, refs


def _read_groups(
    ref: Path, utt2group: Path | None
) -> tuple[Path | None, dict[str, str], dict[str, str] | None]:
    """Return the file with the groups, its table, and the group of each utterance; None without groups."""
    if utt2group:
        table = read_table(utt2group)
        return utt2group, table, table
    found = [ref / name for name in ("utt2group", "spk2group") if ref.is_dir() and (ref / name).exists()]
    groups = read_groups(ref, read_table(ref / "utt2spk")) if found else {}
    if not groups:
        return None, {}, None
    file = next(file for file in found if file.stat().st_size)
    return file, read_table(file), groups


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
    utterances = report.utterances
    if not with_alignments:
        utterances = [replace(utterance, alignment=()) for utterance in utterances]
    fields = {**asdict(replace(report, utterances=())), "utterances": list(map(asdict, utterances))}
    for utterance in fields["utterances"]:
        if not with_alignments:
            del utterance["alignment"]
        if not report.groups:
            del utterance["group"]
    head = {"wer": round(report.total.rate, 2), "cer": round(report.chars.rate, 2)}
    totals = {"words": asdict(report.total), "chars": asdict(report.chars), "by_speaker": speakers}
    if report.groups:
        totals["by_group"] = {group: _rates(report.of_group(group)) for group in report.groups}
    return {**head, "interval": fields.pop("interval"), **totals, **fields}


def _rates(report: ScoreReport) -> dict[str, object]:
    rates = {"wer": round(report.total.rate, 2), "cer": round(report.chars.rate, 2)}
    return {**rates, "words": asdict(report.total), "chars": asdict(report.chars)}


def from_json(data: Mapping[str, object]) -> ScoreReport:
    """Convert the output of `to_json` back to a report; ScoringError if a field is missing or invalid.

    Rates and sums, which are stored with the counts, must agree with them.
    """
    try:
        report = TypeAdapter(ScoreReport).validate_python(data)
    except ValidationError as error:
        wrong = [f"{'.'.join(map(str, e['loc']))}: {e['msg'].lower()}" for e in error.errors()]
        raise ScoringError(f"not a score report: {listed(wrong)}") from None
    _refuse_contradictions(report, data)
    return report


def _refuse_contradictions(report: ScoreReport, data: Mapping[str, object]) -> None:
    """Refuse a report without words, or with stored figures that differ from those of its counts."""
    utterances = report.utterances
    if not utterances or len({u.utt_id for u in utterances}) != len(utterances):
        raise ScoringError(f"{len(utterances)} utterances, none or some of them twice")
    if not all(u.words.words and u.chars.words for u in utterances):
        raise ScoringError("a reference without words")
    if report.speaker_intervals.keys() != {u.speaker for u in utterances}:
        raise ScoringError("speaker_intervals: not those of the utterances' speakers")
    groups = {u.group for u in utterances}
    if (groups if groups != {""} else set()) != report.group_intervals.keys() or not (
        report.group_differences.keys() <= report.group_intervals.keys()
    ):
        raise ScoringError("group_intervals: not those of the utterances' groups")
    unlike = [key for key, value in to_json(report).items() if key in _DERIVED and data.get(key) != value]
    if unlike:
        raise ScoringError(f"not the figures of its utterances: {listed(unlike)}")


def _refuse_data_dirs(*folders: Path | None) -> None:
    """Refuse a data directory in place of hypotheses, most likely of swapped arguments."""
    for folder in folders:
        if folder is not None and is_data_dir(folder):
            remedy = "name it first, then the hypotheses: adaptkit score REF HYP"
            raise ScoringError(
                f"{folder}: a data directory, which has references (REF), not hypotheses; {remedy}"
            )


def _find_text(path: Path) -> Path:
    return DecodeFolder(path).text if path.is_dir() else path


def _read_hypotheses(path: Path) -> dict[str, str]:
    if path.is_dir() and not _find_text(path).exists():
        raise ScoringError(f"{path}: contains no hypotheses (text); 'adaptkit decode' writes them")
    return read_table(_find_text(path))
