"""The recordings and times of utterances while a data directory is being checked, as columns."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adaptkit.kaldi.columns import Names, Strings
from adaptkit.kaldi.lines import Lines
from adaptkit.kaldi.scan import Checks, Problem
from adaptkit.kaldi.segments import MOST_SEC, parse_segment, split_all


@dataclass
class CheckedAudio:
    """What is known about the audio while it is being checked, by the line of each utterance (N,)."""

    path: Path
    repair: str  # the command that drops what cannot be used
    tables: dict[str, Lines]
    lines: Lines  # those that say where utterances are
    places: np.ndarray  # (N,) of their recordings in wav.scp; -1 where there is none, or the line is invalid
    starts_sec: np.ndarray  # (N,)
    ends_sec: np.ndarray  # (N,); NaN for the end of the recording
    lengths_sec: np.ndarray  # (R,) of the recordings; NaN unless they can be used
    rates_hz: np.ndarray  # (R,)

    @classmethod
    def of(cls, path: Path, tables: dict[str, Lines], checks: Checks) -> "CheckedAudio":
        """Return what the tables say."""
        wav, lines = tables["wav.scp"], tables.get("segments", tables["wav.scp"])
        if lines is wav:
            places, starts, ends = np.arange(len(wav)), np.zeros(len(wav)), np.full(len(wav), np.nan)
        else:
            names, starts, ends = _split_valid(lines.column)
            places = wav.rows(names)
        unknown = np.full(len(wav), np.nan)
        repair, rates_hz = checks.repair_of(path), np.zeros(len(wav), np.int64)
        return cls(path, repair, tables, lines, places, starts, ends, unknown, rates_hz)

    @property
    def table(self) -> str:
        """The table that says where utterances are."""
        return "segments" if "segments" in self.tables else "wav.scp"

    @property
    def own_lengths_sec(self) -> np.ndarray:
        """The length of each utterance's recording (N,); NaN unless it can be used."""
        return np.append(self.lengths_sec, np.nan)[self.places]

    @property
    def seconds(self) -> np.ndarray:
        """The duration of each utterance (N,): from its recording and times, else utt2dur; NaN if unknown."""
        lengths_sec = self.own_lengths_sec
        is_open = np.isnan(self.ends_sec)
        seconds = np.where(is_open, lengths_sec, np.fmin(self.ends_sec, lengths_sec)) - self.starts_sec
        if "utt2dur" not in self.tables:
            return seconds
        stated = np.fromiter(map(stated_sec, self.tables["utt2dur"].column), np.float64)
        stated = np.append(np.where(stated > 0, stated, np.nan), np.nan)
        own = stated[self.tables["utt2dur"].rows(self.lines.ids)]
        is_stated = is_open & np.isnan(lengths_sec) & ~np.isnan(self.starts_sec)
        return np.where(is_stated, own, seconds)

    def problem(
        self, name: str, row: int, what: str, remedy: str = "", *, cause: str, example: str
    ) -> Problem:
        """Return a problem of one line of a table."""
        remedy = remedy or f"{self.repair} drops it"
        table = self.tables[name]
        number, key = int(table.numbers[row]), table.ids[row]
        return Problem(self.path / name, number, key, what, remedy, cause=cause, example=example)


class Users:
    """The utterances of each recording."""

    def __init__(self, audio: CheckedAudio):
        self.audio = audio
        self.order = np.argsort(audio.places, kind="stable")
        places = audio.places[self.order]
        self.ends = np.searchsorted(places, np.arange(-1, len(audio.lengths_sec)), side="right")

    def of(self, row: int) -> list[int]:
        """Return the rows of a recording's utterances."""
        return self.order[self.ends[row] : self.ends[row + 1]].tolist()

    def spans(self, row: int) -> list[tuple[float, float | None]]:
        """Return their starts and ends in seconds; None for the end of the recording."""
        own = self.order[self.ends[row] : self.ends[row + 1]]
        starts, ends = self.audio.starts_sec[own].tolist(), self.audio.ends_sec[own].tolist()
        return [(start, None if math.isnan(end) else end) for start, end in zip(starts, ends, strict=True)]


class Parts(Sequence[tuple[str, list[tuple[float, float | None]]]]):
    """The location and the spans of some recordings, made when they are asked for."""

    def __init__(self, users: Users, rows: Sequence[int]):
        self.users, self.rows = users, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int | slice) -> Any:
        rows = self.rows[index]
        locations = self.users.audio.tables["wav.scp"].column
        if isinstance(rows, int):
            return locations[rows], self.users.spans(rows)
        return [(locations[row], self.users.spans(row)) for row in rows]


def stated_sec(value: str) -> float:
    """Return the seconds in a value of utt2dur; 0 if it is invalid, which is reported elsewhere."""
    try:
        return float(value) if 0 < float(value) < MOST_SEC else 0.0
    except ValueError:
        return 0.0


def _split_valid(values: Strings) -> tuple[Names, np.ndarray, np.ndarray]:
    """Return recordings, starts and ends of segments; an invalid one has no recording."""
    try:
        return split_all(values)
    except ValueError:
        found = list(map(_parse, values))
    names, starts, ends = zip(*found, strict=True) if found else ((), (), ())
    return Names.of(names), np.array(starts, np.float64), np.array(ends, np.float64)  # None becomes NaN


def _parse(value: str) -> tuple[str, float, float | None]:
    try:
        return parse_segment(value)
    except ValueError:
        return "", math.nan, None
