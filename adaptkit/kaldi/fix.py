"""Repair data directories as Kaldi's fix_data_dir.sh does: sort, drop unusable entries, rebuild spk2utt."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

from adaptkit import locks
from adaptkit.errors import DataError, counted, listed
from adaptkit.files import replacing, write_text
from adaptkit.kaldi.columns import Strings
from adaptkit.kaldi.datadir import invert
from adaptkit.kaldi.lines import NO_LINES, Lines
from adaptkit.kaldi.scan import Checks, Problem, Table, describe, scan_table
from adaptkit.kaldi.tables import SIDE_TABLES, format_table
from adaptkit.kaldi.validate import DEFAULT_CHECKS, alphabet_problems, find_in_tables, needed_tables
from adaptkit.tokens import TokenList

BACKUP = ".backup"


@dataclass(frozen=True)
class Repair:
    """The result of `fix`: problems found, utterances dropped with the reason, and files changed."""

    problems: tuple[Problem, ...]
    dropped: Mapping[str, str]
    num_kept: int
    changed: tuple[str, ...]


def fix(path: Path, checks: Checks = DEFAULT_CHECKS, *, tokens: TokenList | None = None) -> Repair:
    """Repair a data directory in place, so that the same checks find no problem; warnings may remain.

    With `tokens`, texts are respelled (`TokenList.respell`). Utterances with anything spoken that no token
    spells, such as digits, are dropped, as are those of which no word is left. An alphabet among the checks
    applies to the respelled texts.

    Every changed file is first copied to `.backup` inside the directory, where earlier copies stay (`text`,
    then `text.2`), and then replaced atomically. If no utterance would remain, nothing is changed and a
    DataError gives the reasons.
    """
    path = Path(path)
    tables, problems = find_in_tables(path, checks if tokens is None else replace(checks, alphabet=None))
    if tokens is not None:
        tables["text"], found = _respell(path, tables.get("text", NO_LINES), tokens)
        problems += [*found, *alphabet_problems(path, tables["text"], checks)]
    faults = [problem for problem in problems if not problem.is_warning]
    reasons = _reasons(tables, faults)
    complete = set.intersection(*(set(tables[name]) for name in needed_tables(tables))) if tables else set()
    kept = complete - set(reasons)
    if not kept:
        raise DataError(f"{path}: no utterance would remain, nothing was changed:\n{_lines(faults)}")
    if "utt2dur" in tables:  # its lines are optional, and lengths are taken from the audio
        wrong = {problem.line for problem in faults if problem.path.name == "utt2dur"}
        tables["utt2dur"] = tables["utt2dur"].without(wrong)
    repaired = _repaired(path, tables, kept)
    changed = {name: text for name, text in repaired.items() if _is_changed(path / name, text)}
    with locks.hold(path, parts=(BACKUP,)):
        _replace(path, changed)
    return Repair(tuple(problems), reasons, len(kept), tuple(changed))


def _respell(path: Path, texts: Table, tokens: TokenList) -> tuple[Table, list[Problem]]:
    """Return the texts as the tokens spell them, and a problem for each that is left out."""
    found = Lines(texts.ids, Strings.of([tokens.respell(text) for text in texts.column]), texts.numbers)
    problems = []
    for (utt_id, line), text in zip(found.lines(), texts.column, strict=True):
        if pieces := tokens.unknown_in(line.value):
            what = f"contains {listed(map(repr, pieces))}, which the base model has no tokens for"
            remedy = "spell it in words"
        elif text and not line.value:
            what, remedy = f"{text!r} holds no words", "write what is spoken"
        else:
            continue
        problems.append(Problem(path / "text", line.number, utt_id, f"{utt_id}: {what}", remedy))
    return found, problems


def _reasons(tables: dict[str, Table], faults: list[Problem]) -> dict[str, str]:
    """Return the first problem of each utterance that cannot be used."""
    users: dict[str, list[str]] = {}  # of each recording
    for utt_id, line in tables.get("segments", NO_LINES).lines():
        users.setdefault(line.value.split(" ")[0], []).append(utt_id)
    reasons: dict[str, str] = {}
    for problem in faults:
        is_recording = problem.path.name == "wav.scp" and "segments" in tables
        lost = users.get(problem.utt_id, []) if is_recording else [problem.utt_id]
        for utt_id in filter(None, lost):
            reasons.setdefault(utt_id, _reason(problem))
    return dict(sorted(reasons.items(), key=lambda item: item[0].encode()))


def _reason(problem: Problem) -> str:
    """Return a problem without the remedy, which is being carried out."""
    is_under_way = "adaptkit data fix" in problem.remedy
    return str(problem).removesuffix(f"; {problem.remedy}") if is_under_way else str(problem)


def _repaired(path: Path, tables: dict[str, Table], kept: set[str]) -> dict[str, str]:
    """Return the new content of each file."""
    speakers = {utt_id: tables["utt2spk"][utt_id].value for utt_id in kept}
    recordings = kept
    if "segments" in tables:
        recordings = {tables["segments"][utt_id].value.split(" ")[0] for utt_id in kept}
    keys = {"utterance": kept, "recording": recordings, "speaker": set(speakers.values())}
    kinds = {"wav.scp": "recording", "spk2group": "speaker"}
    repaired = {name: _filtered(table, keys[kinds.get(name, "utterance")]) for name, table in tables.items()}
    if tables.get("utt2group") and "spk2group" in tables:
        repaired["spk2group"] = ""  # the finer of the two stays
    repaired["spk2utt"] = format_table(invert(speakers))
    for kind, names in SIDE_TABLES.items():
        for name in names:
            if (path / name).exists():
                repaired[name] = _filtered(scan_table(path / name)[0], keys[kind])
    return repaired


def _replace(path: Path, changed: Mapping[str, str]) -> None:
    """Copy the changed files to the backup, then write them; an empty optional table is deleted."""
    for name in changed:
        if (path / name).exists():
            _back_up(path / name)
    for name, text in changed.items():
        if text:
            write_text(path / name, text)
        else:
            (path / name).unlink()


def _back_up(file: Path) -> None:
    """Copy a file to the backup, beside earlier versions of it: `text`, then `text.2`."""
    for number in count(1):
        copy = file.parent / BACKUP / (file.name if number == 1 else f"{file.name}.{number}")
        if not copy.exists():
            with replacing(copy) as temporary:
                temporary.write_bytes(_content(file))
        if _content(copy) == _content(file):
            return


def _filtered(table: Table, keys: set[str]) -> str:
    return format_table({key: line.value for key, line in table.lines() if key in keys})


def _is_changed(file: Path, text: str) -> bool:
    """Whether a file has to be written or, if its text is empty, deleted."""
    return _content(file) != text.encode() if text else file.exists()


def _content(file: Path) -> bytes:
    return file.read_bytes() if file.exists() else b""


def _lines(faults: list[Problem], most: int = 10) -> str:
    lines = [f"  {line}" for line in describe(faults)]
    if len(lines) > most:
        lines[most:] = [f"  and {counted(len(lines) - most, 'more cause')}"]
    return "\n".join(lines)
