"""The times of utterances: the values `recording start end` of Kaldi's `segments`."""

from array import array
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import numpy as np

from adaptkit.errors import DataError, shell_word
from adaptkit.kaldi.columns import Names, Strings, Table

MOST_SEC = 1e7  # of a recording; 116 days


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


def read_spans(path: Path, segments: Table[str]) -> tuple[Names, np.ndarray, np.ndarray]:
    """Return the recordings of segments, and their starts and ends in seconds (N,); NaN for an open end."""
    try:
        return split_all(segments.column)
    except ValueError:
        return _parse_all(path, segments)


def split_all(values: Strings) -> tuple[Names, np.ndarray, np.ndarray]:
    """Return the same of values of `segments`; a ValueError says that some may not be valid."""
    times = array("d")

    def split() -> Iterator[str]:
        for some in values.chunks():
            fields = " ".join(some).split(" ")
            if not all(value.count(" ") == 2 for value in some):
                raise ValueError("not three fields")
            times.extend(map(float, chain.from_iterable(zip(fields[1::3], fields[2::3], strict=True))))
            yield from fields[::3]

    names = Names.of(split())
    starts_sec, ends_sec = np.frombuffer(times).reshape(-1, 2).T.copy()
    is_open = (ends_sec == -1) & (starts_sec < MOST_SEC)
    is_span = (starts_sec < ends_sec) & (ends_sec < MOST_SEC)
    if not ((starts_sec >= 0) & (is_open | is_span)).all():
        raise ValueError("not a valid time span")
    ends_sec[is_open] = np.nan
    return names, starts_sec, ends_sec


def _parse_all(path: Path, segments: Table[str]) -> tuple[Names, np.ndarray, np.ndarray]:
    """Read segments line by line, and refuse the first value that is not a segment."""
    found = []
    for utt_id, value in segments.items():
        try:
            found.append(parse_segment(value))
        except ValueError as error:
            remedy = f"'adaptkit data fix {shell_word(path)}' drops it"
            raise DataError(f"{path}/segments: {utt_id}: {error}; {remedy}") from None
    names, starts, ends = zip(*found, strict=True) if found else ((), (), ())
    return Names.of(names), np.array(starts, np.float64), np.array(ends, np.float64)  # None becomes NaN
