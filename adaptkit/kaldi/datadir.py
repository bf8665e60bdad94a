"""Kaldi data directories: sets of utterances, read into `DataDir` and written from it.

Files: `wav.scp` (recording, location), `segments` (utterance, recording, start, end; optional: otherwise each
utterance is the recording of the same name), `text` (optional for decoding; ids alone do too), `utt2spk`,
`spk2utt`, `utt2dur` (optional), `utt2task` (optional: otherwise the speaker is the task), `utt2group` or
`spk2group` (optional: by which results are shown) and, once extracted, `feats.scp`. See
Povey et al., The Kaldi speech recognition toolkit, 2011, https://kaldi-asr.org/doc/data_prep.html
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from adaptkit import locks
from adaptkit.errors import DataError, listed
from adaptkit.files import remove
from adaptkit.kaldi.tables import read_table, write_table

MOST_SEC = 1e7  # of a recording; 116 days


@dataclass(frozen=True)
class Utterance:
    """A segment of one speaker's speech; `end_sec` is None if it extends to the end of its recording."""

    utt_id: str
    speaker: str
    recording: str
    text: str
    start_sec: float = 0.0
    end_sec: float | None = None
    task: str = ""  # a speaker or a domain; the speaker if the directory has no utt2task
    group: str = ""  # by which results are shown too, such as `child`; empty without utt2group or spk2group

    def __post_init__(self) -> None:
        if not self.task:
            object.__setattr__(self, "task", self.speaker)


@dataclass(frozen=True)
class DataDir:
    """A set of utterances sorted by id, with the locations of its recordings and, if known, features."""

    path: Path
    utterances: tuple[Utterance, ...]
    recordings: Mapping[str, str]  # name: a file, `archive:offset`, or a command that ends in `|`
    feats: Mapping[str, str] | None = None  # utterance: `archive:offset`
    duration_sec: Mapping[str, float] | None = None  # utterance: seconds

    @property
    def tasks(self) -> list[str]:
        """The task names, sorted."""
        return sorted({utterance.task for utterance in self.utterances}, key=str.encode)


def read(path: Path, *, needs_text: bool = True) -> DataDir:
    """Read a data directory; an inconsistency is a DataError that names the first problem.

    `adaptkit data validate` (kaldi.validate) lists all problems. Unless it `needs_text`, there may be no
    `text`, or one of ids alone; every text is then empty.
    """
    path = Path(path)
    if not path.is_dir():
        raise DataError(f"{path}: no such data directory; the corpus's local/prepare.py writes it")
    text, speakers = _read_optional(path / "text") or {}, read_table(path / "utt2spk")
    recordings = read_table(path / "wav.scp")
    segments = _read_segments(path / "segments") if (path / "segments").exists() else None
    spans = {name: (name, 0.0, None) for name in recordings} if segments is None else segments
    tasks = _read_optional(path / "utt2task") or speakers
    groups = read_groups(path, speakers)
    audio = "wav.scp" if segments is None else "segments"
    has_words = any(text.values())
    tables = {"text": text} if has_words else {}
    tables |= {"utt2spk": speakers, audio: spans, "utt2task": tasks}
    _refuse_unequal(path, {**tables, "utt2group": groups} if groups else tables)
    utterances = [
        Utterance(
            utt_id,
            speakers[utt_id],
            recording,
            text.get(utt_id, ""),
            start,
            end,
            tasks[utt_id],
            groups.get(utt_id, ""),
        )
        for utt_id, (recording, start, end) in spans.items()
    ]
    lost = [u.utt_id for u in utterances if u.recording not in recordings]
    if lost:
        remedy = f"'adaptkit data fix {path}' drops them"
        raise DataError(f"{path}/segments: no recording in wav.scp for {listed(lost)}; {remedy}")
    if not utterances:
        raise DataError(f"{path}: contains no utterances")
    if needs_text and not has_words:
        what = "holds no words" if (path / "text").exists() else "no such file or folder"
        remedy = "training and scoring need the words of each utterance; only decoding does not"
        raise DataError(f"{path}/text: {what}; {remedy}")
    return DataDir(
        path=path,
        utterances=tuple(sorted(utterances, key=lambda u: u.utt_id.encode())),
        recordings=recordings,
        feats=_read_optional(path / "feats.scp"),
        duration_sec=_read_durations(path / "utt2dur"),
    )


def read_groups(path: Path, speakers: Mapping[str, str]) -> dict[str, str]:
    """Read the group of each utterance from utt2group, or by its speaker from spk2group; empty without both.

    `speakers` is the table of utt2spk. An utterance without a group is a DataError, as are both files.
    """
    by_utterance, by_speaker = (_read_optional(path / name) or {} for name in ("utt2group", "spk2group"))
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
    so that a killed run leaves no mixture of old and new tables.
    """
    utterances = {u.utt_id: u for u in data.utterances}
    if len(utterances) != len(data.utterances):
        raise DataError(f"{data.path}: duplicate utterance ids among the {len(data.utterances)} to write")
    lacking = [u.utt_id for u in data.utterances if not u.group]
    if 0 < len(lacking) < len(data.utterances):
        raise DataError(f"{data.path}: no group for {listed(lacking)}; give every utterance one, or none")
    with locks.hold(data.path):
        remove(data.path / "wav.scp")
        _write_tables(data.path, data, utterances)
        write_table(data.path / "wav.scp", data.recordings)


def _write_tables(path: Path, data: DataDir, utterances: Mapping[str, Utterance]) -> None:
    texts = {key: u.text for key, u in utterances.items()}
    _write_optional(path / "text", texts if any(texts.values()) else None)
    write_table(path / "utt2spk", {key: u.speaker for key, u in utterances.items()})
    write_table(path / "spk2utt", invert({key: u.speaker for key, u in utterances.items()}))
    _write_optional(path / "segments", _segments(data.utterances))
    _write_optional(path / "utt2task", _tasks(data.utterances))
    _write_optional(path / "utt2group", {key: u.group for key, u in utterances.items() if u.group})
    remove(path / "spk2group")
    _write_optional(path / "feats.scp", data.feats)
    durations = data.duration_sec and {key: f"{value:.3f}" for key, value in data.duration_sec.items()}
    _write_optional(path / "utt2dur", durations)


def parse_segment(value: str) -> tuple[str, float, float | None]:
    """Split a value of `segments` into recording, start and end in seconds; an end of -1 becomes None.

    >>> parse_segment("call7 0.5 -1")
    ('call7', 0.5, None)
    """
    fields = value.split()
    try:
        recording, start_sec, end_sec = fields[0], float(fields[1]), float(fields[2])
    except (ValueError, IndexError):
        fields = []
    if len(fields) != 3:
        raise ValueError(f"'{value}' is not 'recording start end' in seconds")
    if end_sec == -1 and 0 <= start_sec < MOST_SEC:
        return recording, start_sec, None
    if not 0 <= start_sec < end_sec < MOST_SEC:
        raise ValueError(f"{start_sec:g} s to {end_sec:g} s is not a valid time span")
    return recording, start_sec, end_sec


def _read_segments(path: Path) -> dict[str, tuple[str, float, float | None]]:
    segments = {}
    for utt_id, value in read_table(path).items():
        try:
            segments[utt_id] = parse_segment(value)
        except ValueError as error:
            remedy = f"'adaptkit data fix {path.parent}' drops it"
            raise DataError(f"{path}: {utt_id}: {error}; {remedy}") from None
    return segments


def _read_durations(path: Path) -> dict[str, float] | None:
    table = _read_optional(path)
    try:
        seconds = {key: float(value) for key, value in table.items()} if table else None
    except ValueError as error:
        raise DataError(f"{path}: {error}; expected seconds; delete the file, it is optional") from None
    wrong = [f"{key} {table[key]}" for key, value in (seconds or {}).items() if not 0 < value < MOST_SEC]
    if wrong:
        raise DataError(f"{path}: no durations: {listed(wrong, 3)}; delete the file, it is optional")
    return seconds


def _refuse_unequal(path: Path, tables: Mapping[str, Mapping[str, object]]) -> None:
    """Refuse tables whose keys are not the same set of utterances."""
    everything = set().union(*tables.values())
    for name, table in tables.items():
        missing = sorted(everything - set(table))
        if missing:
            remedy = f"'adaptkit data fix {path}' drops them"
            raise DataError(f"{path}/{name}: missing {listed(missing)}; {remedy}")


def _read_optional(path: Path) -> dict[str, str] | None:
    return read_table(path) if path.exists() else None


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
    for utt_id in sorted(speakers, key=str.encode):
        groups[speakers[utt_id]].append(utt_id)
    return {speaker: " ".join(utt_ids) for speaker, utt_ids in groups.items()}


def _segments(utterances: Iterable[Utterance]) -> dict[str, str]:
    """Return the segments table; empty if every utterance is the whole recording of the same name."""
    utterances = list(utterances)
    if all(u.recording == u.utt_id and not u.start_sec and u.end_sec is None for u in utterances):
        return {}
    ends = {u.utt_id: "-1" if u.end_sec is None else f"{u.end_sec:.3f}" for u in utterances}
    return {u.utt_id: f"{u.recording} {u.start_sec:.3f} {ends[u.utt_id]}" for u in utterances}


def _tasks(utterances: Iterable[Utterance]) -> dict[str, str]:
    utterances = list(utterances)
    return {u.utt_id: u.task for u in utterances} if any(u.task != u.speaker for u in utterances) else {}
