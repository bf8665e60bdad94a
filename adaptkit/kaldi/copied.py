"""Audio files made from others, with a record of the sources of each.

A run makes only the files that are missing or out of date, so that a killed run can be continued.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

from adaptkit.files import read_text, remove, split_lines, write_text
from adaptkit.progress import counting

RECORD = "copies.jsonl"


@dataclass(frozen=True)
class Copied:
    """A line of the record: an audio file, the digest of its sources, and its size."""

    utt_id: str  # of the copy, or its recording
    made_of: str
    num_bytes: int


Line = TypeVar("Line", bound=Copied)


@dataclass(frozen=True)
class Wanted:
    """An audio file to be made, and the digest of its sources."""

    file: Path
    made_of: str


def digest(made_of: Sequence[object]) -> str:
    """Hash everything that an audio file depends on."""
    return hashlib.sha256(json.dumps(made_of).encode()).hexdigest()


def make_missing(
    wanted: Mapping[str, Wanted],
    folder: Path,
    kind: type[Line],
    make: Callable[[list[str]], Iterable[Line]],
    *,
    what: str,
) -> dict[str, Line]:
    """Make the audio files that are missing or out of date; return the lines of all, by id.

    `make` yields the lines of the given ids, each once its file exists. Until all are made, `folder` is not a
    data directory. `what` names the files in progress messages.
    """
    found = _read(folder / RECORD, kind)
    made = {key: found[key] for key, one in wanted.items() if key in found and _is_there(one, found[key])}
    todo = [key for key in wanted if key not in made]
    if not todo:
        return made
    remove(folder / "wav.scp")
    write_text(folder / RECORD, "".join(map(_format, made.values())))
    with counting(what, len(todo)) as advance, open(folder / RECORD, "a", encoding="utf-8") as file:
        for line in make(todo):
            made[line.utt_id] = line
            file.write(_format(line))
            file.flush()
            advance(1, "")
    return made


def _format(line: Copied) -> str:
    return json.dumps(asdict(line)) + "\n"


def _read(record: Path, kind: type[Line]) -> dict[str, Line]:
    """Read the lines of an earlier run, by id; the last line of a killed run may be incomplete."""
    lines = split_lines(read_text(record)) if record.exists() else []
    made = {}
    for line in lines:
        with suppress(ValueError, TypeError, RecursionError):
            one = kind(**json.loads(line))
            made[one.utt_id] = one
    return made


def _is_there(wanted: Wanted, made: Copied) -> bool:
    file = wanted.file
    return made.made_of == wanted.made_of and file.is_file() and file.stat().st_size == made.num_bytes
