"""Corpus layouts other than Kaldi's, each read as entries: audio, text, speaker.

audiofolder   Hugging Face's: a folder with metadata.csv or metadata.jsonl, whose `file_name` is relative to
              it, with `transcription` or `text` and optionally `speaker` or `speaker_id`
table         a csv or tsv of path, text and speaker, with or without these or like names in its first line;
              Common Voice's paths start at the folder clips beside it
lhotse        cuts, or recordings and supervisions, read by lhotse (https://lhotse.readthedocs.io)
sap           Speech Accessibility Project: a folder with <contributor>/<contributor>.json beside the audio
folders       a folder for each speaker, with texts as <name>.txt beside the audio
"""

import csv
import io
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from adaptkit.augment.recordings import SUFFIXES, find_audio
from adaptkit.characters import clean
from adaptkit.corpora.contributions import Entry, read_contributions
from adaptkit.errors import AdaptkitError, DataError, listed
from adaptkit.files import parse_json, read_text, require_regular, split_lines

__all__ = ["READERS", "Entry", "find_layout"]

_PATHS = ("file_name", "path", "filename", "file", "audio", "wav")
_TEXTS = ("transcription", "text", "transcript", "sentence")
_SPEAKERS = ("speaker", "speaker_id", "client_id")  # the last as in Common Voice, like `sentence`
_METADATA = ("metadata.csv", "metadata.jsonl")
_LOG = logging.getLogger(__name__)


def find_layout(source: Path) -> str:
    """Return the layout of a corpus by the names of its files."""
    if not source.is_dir():
        require_regular(source)
        if source.name in _METADATA:
            return "audiofolder"
        if source.suffix.lower() in (".csv", ".tsv"):
            return "table"
        if re.search(r"\.jsonl?(\.gz)?$", source.name):
            return "lhotse"
        raise DataError(f"{source}: neither a folder nor a csv, tsv or jsonl; name the corpus's own table")
    if any((source / name).is_file() for name in _METADATA):
        return "audiofolder"
    inner = sorted({path.parent for name in _METADATA for path in source.glob(f"*/{name}")})
    if inner:
        raise DataError(f"{source}: has several parts; import each by itself: {listed(map(str, inner), 5)}")
    if _find_manifests(source):
        return "lhotse"
    if any(path.parent.name == path.stem for path in source.glob("*/*.json")):
        return "sap"
    tables = sorted(path for path in source.iterdir() if path.suffix.lower() in (".csv", ".tsv"))
    if tables and next(source.rglob("*.txt"), None) is None:
        raise DataError(
            f"{source}: has no texts beside the audio; name the table instead: {listed(map(str, tables), 5)}"
        )
    return "folders"


def _read_audiofolder(source: Path) -> Iterator[Entry]:
    table = (
        source
        if source.is_file()
        else next((source / name for name in _METADATA if (source / name).is_file()), None)
    )
    if table is None:
        raise DataError(f"{source}: has neither {' nor '.join(_METADATA)}; name the folder that has one")
    rows = _read_csv(table) if table.suffix == ".csv" else _read_jsonl(table)
    for place, row in rows:
        yield _as_entry(place, row, table.parent)


def _read_table(source: Path) -> Iterator[Entry]:
    for place, row in _read_csv(source):
        yield _as_entry(place, row, source.parent)


def _as_entry(place: str, row: Mapping[str, Any], folder: Path) -> Entry:
    """Read a row by the names of its columns; a path is relative to the folder of the table."""
    path, text, speaker = (_find_value(row, names) for names in (_PATHS, _TEXTS, _SPEAKERS))
    if isinstance(text, int | float) and not isinstance(text, bool):
        text = str(text)
    for names, value in ((_PATHS, path), (_TEXTS, text)):
        if not isinstance(value, str):
            raise DataError(
                f"{place}: no {' or '.join(names[:2])} among {listed(map(str, row))}; rename the columns"
            )
    if "\0" in path:
        raise DataError(f"{place}: a NUL character in the path; correct it")
    return Entry(place, _locate(folder, path), text, "" if speaker is None else str(speaker))


def _find_value(row: Mapping[str, Any], names: Sequence[str]) -> Any:
    """Return the first value in some columns, an empty text if they have none; None without these columns."""
    values = [row[name] for name in names if name in row]
    return next((value for value in values if value is not None), "" if values else None)


def _locate(folder: Path, path: str) -> Path:
    """Return an audio file below the folder of its table or, as in Common Voice, below `clips` there."""
    places = folder / path, folder / "clips" / path
    return next(filter(os.path.isfile, places), places[0])


def _read_csv(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the place and the fields of each row; a tsv has no quotes, a csv may have."""
    require_regular(path)
    is_tsv = path.suffix.lower() == ".tsv"
    text = read_text(path).removeprefix("\ufeff")
    head = text[: text.find("\n")]
    dialect = {"delimiter": ";" if head.count(";") > head.count(",") else ","}  # spreadsheets write either
    if is_tsv:
        dialect = {"delimiter": "\t", "quoting": csv.QUOTE_NONE}
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, **dialect)
    names: list[str] = []
    try:
        for fields in reader:
            if not fields:
                continue
            place = f"{path}:{reader.line_num}"
            if not names:
                names = [clean(field).strip().lower() for field in fields]
                if {*_PATHS} & {*names}:
                    continue
                _refuse_unlike_audio(place, fields)
                names = ["path", "text", "speaker"]
            if len(fields) > len(names) or len(fields) < min(2, len(names)):
                raise DataError(f"{place}: {len(fields)} fields, expected {listed(names)}; correct the line")
            yield place, dict(zip(names, fields, strict=False))
    except csv.Error as error:
        raise DataError(
            f"{path}:{reader.line_num}: not csv: {error}; write it again with quotes closed"
        ) from error


def _refuse_unlike_audio(place: str, fields: Sequence[str]) -> None:
    """Refuse a first line that neither names the columns nor begins with an audio file."""
    if Path(fields[0]).suffix.lower() not in SUFFIXES:
        raise DataError(
            f"{place}: neither names of columns nor an audio file: {listed(map(repr, fields), 5)}; "
            "name the columns path, text and speaker there"
        )


def _read_jsonl(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    require_regular(path)
    for number, line in enumerate(split_lines(read_text(path).removeprefix("\ufeff")), start=1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except ValueError as error:
            raise DataError(f"{path}:{number}: not json: {error}; correct the line") from error
        if not isinstance(row, dict):
            raise DataError(f"{path}:{number}: expected an object with file_name and text; correct the line")
        yield f"{path}:{number}", row


def _read_folders(source: Path) -> Iterator[Entry]:
    """Read a folder for each speaker; files outside such folders have no speaker."""
    if not source.is_dir():
        raise DataError(f"{source}: not a folder; name the one that holds a folder for each speaker")
    for audio in find_audio(source):
        inside = audio.relative_to(source).parts[:-1]
        beside = audio.with_suffix(".txt")
        text = read_text(beside).removeprefix("\ufeff") if beside.is_file() else ""
        yield Entry(str(audio), audio, text, inside[0] if inside else "")


def _read_lhotse(source: Path) -> Iterator[Entry]:
    if find_spec("lhotse") is None:
        raise AdaptkitError(
            f"{source}: its manifests are read by lhotse, which is not installed; pip install lhotse"
        )
    from lhotse import CutSet, RecordingSet, SupervisionSet, load_manifest

    paths = _find_manifests(source) if source.is_dir() else [source]
    for path in paths:
        require_regular(path)
    _warn_of_several(source, paths)
    try:
        manifests = [load_manifest(path) for path in paths]
    except Exception as error:  # lhotse raises what its parsers do
        raise DataError(f"{source}: lhotse cannot read it: {error}; write it again with lhotse") from error
    for cut in (cut for manifest in manifests if isinstance(manifest, CutSet) for cut in manifest):
        if getattr(cut, "recording", None) is None:
            raise DataError(
                f"{source}: {cut.id}: not a cut from one recording; import the cuts from before mixing"
            )
        for supervision in cut.supervisions:
            yield _of_supervision(source, supervision, cut.recording, cut.start)
    recordings: dict[str, Any] = {}
    for one in (one for m in manifests if isinstance(m, RecordingSet) for one in m):
        if recordings.setdefault(one.id, one) != one:
            what = f"two different recordings have the id {one.id}"
            raise DataError(
                f"{source}: {what}; import each part of the corpus by itself, from its own folder"
            )
    supervisions = [one for m in manifests if isinstance(m, SupervisionSet) for one in m]
    yield from _pair(source, recordings, supervisions)


def _warn_of_several(source: Path, paths: Sequence[Path]) -> None:
    """Warn that several manifests become one set, which may be parts such as train and test."""
    names = [path.name for path in paths if "recordings" not in path.name]
    if len(names) > 1:
        remedy = "import parts such as train and test one by one, each from a folder of its own"
        _LOG.warning("%s: read as one set: %s; %s", source, listed(names, 5), remedy)


def _pair(source: Path, recordings: Mapping[str, Any], supervisions: Sequence[Any]) -> Iterator[Entry]:
    """Read supervisions of recordings in a manifest of their own."""
    if bool(recordings) != bool(supervisions):
        raise DataError(f"{source}: needs both recordings and supervisions; name the folder that holds them")
    for supervision in supervisions:
        if supervision.recording_id not in recordings:
            raise DataError(f"{source}: {supervision.id}: no recording {supervision.recording_id}; add it")
        yield _of_supervision(source, supervision, recordings[supervision.recording_id], 0.0)


def _find_manifests(source: Path) -> list[Path]:
    """Return the manifests of a folder: its cuts, else its recordings and supervisions."""
    found = {
        kind: sorted(p for p in source.glob(f"*{kind}*.json*") if re.search(r"\.jsonl?(\.gz)?$", p.name))
        for kind in ("cuts", "recordings", "supervisions")
    }
    return found["cuts"] or [*found["recordings"], *found["supervisions"]]


def _of_supervision(source: Path, supervision: Any, recording: Any, offset_sec: float) -> Entry:
    """Read a supervision of a recording; its times count from `offset_sec`."""
    place = f"{source}: {supervision.id}"
    files = recording.sources
    if len(files) != 1 or files[0].type != "file" or recording.num_channels != 1 or recording.transforms:
        raise DataError(
            f"{place}: recording {recording.id} is not one unchanged file with one channel; import the "
            "manifests from before it was changed, with a file for each channel"
        )
    audio = Path(files[0].source)
    if not audio.is_absolute() and not audio.exists():
        audio = (source if source.is_dir() else source.parent) / audio
    start_sec = offset_sec + supervision.start
    end_sec = min(start_sec + supervision.duration, recording.duration)
    is_whole = start_sec < 0.001 and end_sec > recording.duration - 0.001
    span = (None, None) if is_whole else (max(0.0, start_sec), end_sec)
    return Entry(place, audio, supervision.text or "", supervision.speaker or "", *span)


READERS: Mapping[str, Callable[[Path], Iterator[Entry]]] = {
    "audiofolder": _read_audiofolder,
    "table": _read_table,
    "lhotse": _read_lhotse,
    "sap": read_contributions,
    "folders": _read_folders,
}
