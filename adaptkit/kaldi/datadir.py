"""Kaldi data directories: sets of utterances, read into `DataDir` and written from it.

    Files: `wav.scp` (recording, location), `segments` (utterance, recording, start, end; optional: otherwise
    each utterance is the recording of the same name), `text` (optional for decoding, or only ids), `utt2spk`,
    `spk2utt`, `utt2dur` (optional), `utt2task` (optional: otherwise the speaker is the task), `utt2group` or
    `spk2group` (optional: groups for results) and, once extracted, `feats.scp`. See
Povey et al., The Kaldi speech recognition toolkit, 2011, https://kaldi-asr.org/doc/data_prep.html
"""

from array import array
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from adaptkit import locks
from adaptkit.characters import split_words
from adaptkit.errors import DataError, listed, shell_word
from adaptkit.files import remove
from adaptkit.kaldi.columns import Names, Strings, Table
from adaptkit.kaldi.segments import MOST_SEC, read_spans
from adaptkit.kaldi.tables import MAKERS, read_columns, write_table
from adaptkit.kaldi.utterances import Utterance, Utterances

__all__ = ["DataDir", "Utterance", "invert", "read", "read_groups", "write"]


@dataclass(frozen=True)
class DataDir:
    """A set of utterances sorted by id, with the locations of its recordings and, if known, features.

    Any sequence and mappings can be given; they are stored as columns, see `utterances` and `columns`.
    """

    path: Path
    utterances: Utterances
    recordings: Table[str]  # name: a file, `archive:offset`, or a command that ends in `|`
    feats: Table[str] | None = None  # utterance: `archive:offset`
    duration_sec: Table[float] | None = None  # utterance: seconds

    def __post_init__(self) -> None:
        object.__setattr__(self, "utterances", Utterances.of(self.utterances))
        object.__setattr__(self, "recordings", Table.of(self.recordings))
        if self.feats is not None:
            object.__setattr__(self, "feats", Table.of(self.feats))
        if self.duration_sec is not None:
            object.__setattr__(self, "duration_sec", Table.of_floats(self.duration_sec))

    @property
    def tasks(self) -> list[str]:
        """The task names, sorted."""
        return self.utterances.tasks.used()


def read(path: Path, *, needs_text: bool = True) -> DataDir:
    """Read a data directory; an inconsistency is a DataError that names the first problem.

    `adaptkit data validate` (kaldi.validate) lists all problems. Unless `needs_text`, `text` may be missing
    or contain only ids; the texts of these utterances are then empty.
    """
    path = Path(path)
    if not path.is_dir():
        raise DataError(f"{path}: no such data directory; {MAKERS}")
    if not any((path / name).exists() for name in ("wav.scp", "utt2spk", "text")):
        remedy = f"'adaptkit data import {shell_word(path)} OUT' makes one from recordings"
        raise DataError(f"{path}: not a data directory, without wav.scp and utt2spk; {remedy}")
    text, speakers = _read_optional(path / "text"), _read_names(path / "utt2spk")
    recordings = read_columns(path / "wav.scp")
    has_segments = (path / "segments").exists()
    segments = read_columns(path / "segments") if has_segments else recordings
    tasks = _read_names(path / "utt2task") if (path / "utt2task").exists() else speakers
    groups = _read_groups(path, speakers)
    has_words = text is not None and text.column.any()
    tables = {"text": text} if has_words else {}
    tables |= {"utt2spk": speakers, "segments" if has_segments else "wav.scp": segments, "utt2task": tasks}
    _refuse_unequal(path, {**tables, "utt2group": groups} if groups else tables)
    names, starts_sec, ends_sec = read_spans(path, segments) if has_segments else _whole(recordings)
    utterances = Utterances(
        ids=speakers.ids,
        speakers=speakers.column,
        recordings=names,
        texts=text.column if has_words else Strings.of([""] * len(speakers)),
        starts_sec=starts_sec,
        ends_sec=ends_sec,
        tasks=tasks.column,
        groups=groups.column if groups else Names.constant("", len(speakers)),
    )
    _refuse_unusable(path, utterances, recordings)
    if needs_text:
        _refuse_wordless(path, utterances, has_words=has_words)
    feats, durations = _read_optional(path / "feats.scp"), _read_durations(path / "utt2dur")
    return DataDir(path, utterances, recordings, feats, durations)


def _refuse_unusable(path: Path, utterances: Utterances, recordings: Table[str]) -> None:
    """Refuse utterances whose recordings are unknown, and a set without utterances."""
    lost = utterances.ids.take(np.flatnonzero(recordings.rows(utterances.recordings) < 0))
    if len(lost):
        remedy = f"'adaptkit data fix {shell_word(path)}' drops them"
        raise DataError(f"{path}/segments: no recording in wav.scp for {listed(lost)}; {remedy}")
    if not len(utterances):
        raise DataError(f"{path}: contains no utterances")


def _refuse_wordless(path: Path, utterances: Utterances, *, has_words: bool) -> None:
    """Refuse a set without texts, and utterances with an empty one, of which models would learn silence."""
    if not has_words:
        what = "holds no words" if (path / "text").exists() else "no such file or folder"
        remedy = "training and scoring need the words of each utterance; only decoding does not"
        raise DataError(f"{path}/text: {what}; {remedy}")
    if utterances.texts.any_empty():
        lacking = [name for name, text in zip(utterances.ids, utterances.texts, strict=True) if not text]
        remedy = f"'adaptkit data fix {shell_word(path)}' drops them"
        raise DataError(f"{path}/text: no words for {listed(lacking)}; {remedy}")


def read_groups(path: Path, speakers: Mapping[str, str]) -> dict[str, str]:
    """Read the group of each utterance from utt2group, or by its speaker from spk2group; empty without both.

    `speakers` is the table of utt2spk. It is a DataError if an utterance has no group or if both files exist.
    """
    by_utterance, by_speaker = (
        dict(_read_optional(path / name) or {}) for name in ("utt2group", "spk2group")
    )
    table, name = (by_speaker, "spk2group") if by_speaker else (by_utterance, "utt2group")
    if by_utterance and by_speaker:
        raise DataError(f"{path}: has both utt2group and spk2group; delete one of them")
    empty = [key for key, group in table.items() if not group]
    if empty:
        raise DataError(f"{path}/{name}: no group for {listed(empty)}; name one, or delete the file")
    if not by_speaker:
        return by_utterance
    unknown = sorted(set(speakers.values()) - by_speaker.keys())
    if unknown:
        raise DataError(f"{path}/spk2group: missing {listed(unknown)}; name a group, or delete the file")
    return {utt_id: by_speaker[speaker] for utt_id, speaker in speakers.items()}


def write(data: DataDir) -> None:
    """Write a data directory with sorted tables; the optional ones only if needed.

    Groups are written as utt2group, for all utterances or none. `wav.scp` is removed first and written last,
    so that a killed run does not leave a data directory with old and new tables. What would be read back as
    something else, such as an id with a space, is a DataError.
    """
    utterances = data.utterances.sorted()
    _refuse_unwritable(data, utterances)
    ids = list(utterances.ids)
    if len(set(ids)) != len(ids):
        raise DataError(f"{data.path}: duplicate utterance ids among the {len(ids)} to write")
    lacking = [utt_id for utt_id, group in zip(ids, utterances.groups, strict=True) if not group]
    if 0 < len(lacking) < len(ids):
        raise DataError(f"{data.path}: no group for {listed(lacking)}; give every utterance one, or none")
    with locks.hold(data.path):
        remove(data.path / "wav.scp")
        _write_tables(data.path, data, utterances, has_groups=not lacking)
        write_table(data.path / "wav.scp", data.recordings)


def _refuse_unwritable(data: DataDir, utterances: Utterances) -> None:
    """Refuse names that are not one word, and texts and locations of several lines."""
    few = (utterances.speakers, utterances.tasks, utterances.groups)
    names = chain(utterances.ids, data.recordings.ids, *(column.used() for column in few))
    wrong = sorted({name for name in names if name and split_words(name) != [name]})
    if wrong:
        what = f"names with white space or invisible characters: {listed(map(ascii, wrong), 3)}"
        raise DataError(
            f"{data.path}: {what}; replace these in the ids of utterances, speakers and recordings"
        )
    tables = Table(utterances.ids, utterances.texts), data.recordings
    broken = [f"{key} ({value!r})" for table in tables for key, value in table.items() if "\n" in value]
    if broken:
        raise DataError(f"{data.path}: line breaks in {listed(broken, 3)}; replace them by spaces")


def _write_tables(path: Path, data: DataDir, utterances: Utterances, *, has_groups: bool) -> None:
    ids, speakers = utterances.ids, Table(utterances.ids, utterances.speakers)
    _write_optional(path / "text", Table(ids, utterances.texts) if utterances.texts.any() else None)
    write_table(path / "utt2spk", speakers)
    write_table(path / "spk2utt", invert(speakers))
    _write_optional(path / "segments", _segments(utterances))
    has_tasks = utterances.tasks != utterances.speakers
    _write_optional(path / "utt2task", Table(ids, utterances.tasks) if has_tasks else None)
    _write_optional(path / "utt2group", Table(ids, utterances.groups) if has_groups else None)
    remove(path / "spk2group")
    _write_optional(path / "feats.scp", data.feats)
    seconds = data.duration_sec
    durations = seconds and Table(seconds.ids, [f"{value:.3f}" for value in seconds.column])
    _write_optional(path / "utt2dur", durations)


def _whole(recordings: Table[str]) -> tuple[Strings, np.ndarray, np.ndarray]:
    """Return the recordings as utterances of the same names, from beginning to end."""
    count = len(recordings)
    return recordings.ids, np.zeros(count), np.full(count, np.nan)


def _read_durations(path: Path) -> Table[float] | None:
    table = _read_optional(path)
    if not table:
        return None
    try:
        seconds = array("d", map(float, table.column))
    except ValueError as error:
        raise DataError(f"{path}: {error}; expected seconds; delete the file, it is optional") from None
    values = np.frombuffer(seconds)
    rows = np.flatnonzero(~((values > 0) & (values < MOST_SEC)))
    if len(rows):
        wrong = [f"{table.ids[row]} {table.column[row]}" for row in rows]
        raise DataError(f"{path}: not durations: {listed(wrong, 3)}; delete the file, it is optional")
    return Table(table.ids, seconds)


def _refuse_unequal(path: Path, tables: Mapping[str, Table]) -> None:
    """Refuse tables whose keys are not the same set of utterances."""
    first, *others = (table.ids for table in tables.values())
    if all(ids == first for ids in others):
        return
    everything = set().union(*tables.values())
    for name, table in tables.items():
        missing = sorted(everything - set(table))
        if missing:
            remedy = f"'adaptkit data fix {shell_word(path)}' drops them"
            raise DataError(f"{path}/{name}: missing {listed(missing)}; {remedy}")


def _read_groups(path: Path, speakers: Table[str]) -> Table[str] | None:
    groups = read_groups(path, speakers)
    ids = sorted(groups, key=str.encode)
    return Table(Strings.of(ids), Names.of(map(groups.__getitem__, ids))) if groups else None


def _read_names(path: Path) -> Table[str]:
    """Read a table with few distinct values, such as speakers."""
    table = read_columns(path)
    return Table(table.ids, Names.of(table.column))


def _read_optional(path: Path) -> Table[str] | None:
    return read_columns(path) if path.exists() else None


def _write_optional(path: Path, table: Mapping[str, str] | None) -> None:
    if table:
        write_table(path, table)
    else:
        remove(path)


def invert(speakers: Mapping[str, str]) -> dict[str, str]:
    """Return the spk2utt table of an utt2spk table.

    >>> invert({"a-2": "a", "a-1": "a"})
    {'a': 'a-1 a-2'}
    """
    groups = defaultdict(list)
    for utt_id, speaker in sorted(speakers.items(), key=lambda item: item[0].encode()):
        groups[speaker].append(utt_id)
    return {speaker: " ".join(utt_ids) for speaker, utt_ids in groups.items()}


def _segments(utterances: Utterances) -> Table[str] | None:
    """Return the segments table; None if every utterance is the whole recording of the same name."""
    starts, ends = utterances.starts_sec, utterances.ends_sec
    is_whole = not starts.any() and np.isnan(ends).all()
    names = utterances.recordings
    if is_whole and all(name == utt_id for name, utt_id in zip(names, utterances.ids, strict=True)):
        return None
    times = zip(names, starts.tolist(), ends.tolist(), strict=True)
    values = (
        f"{name} {_format_time(start)} {'-1' if end != end else _format_time(end)}"
        for name, start, end in times
    )
    return Table(utterances.ids, Strings.of(values))


def _format_time(seconds: float) -> str:
    """Format a time in milliseconds or, if it has more digits, with all of them.

    >>> _format_time(1.5), _format_time(0.12345)
    ('1.500', '0.12345')
    """
    text = f"{seconds:.3f}"
    return text if float(text) == seconds else repr(seconds)
