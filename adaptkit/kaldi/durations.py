"""Durations of utterances: from their times, the headers of their recordings, or utt2dur."""

import os
from collections.abc import Callable, Mapping

import numpy as np

from adaptkit.errors import DataError
from adaptkit.kaldi.datadir import DataDir, Utterance
from adaptkit.kaldi.probing import read_headers
from adaptkit.kaldi.recording import is_command, refused_command, split_offset

Length = Callable[[str], float | None]  # seconds of a recording by its name; None if unknown


def read_durations(data: DataDir, *, allow_pipes: bool = False) -> np.ndarray:
    """Return the duration of each utterance in seconds (N,).

    It follows from the times in segments or the header of the recording. Only if the recording is a command
    or missing, it is taken from utt2dur, which may be out of date; without utt2dur, commands are run if
    allowed.
    """
    recordings, is_open = recording_rows(data), np.isnan(data.utterances.ends_sec)
    needed = set(recordings[is_open & ~_has_stated(data)].tolist())
    locations = data.recordings.column
    asked = [
        row for row in np.unique(recordings[is_open]).tolist() if row in needed or is_present(locations[row])
    ]
    headers = read_headers((locations[row] for row in asked), allow_pipes=allow_pipes)
    for error in headers.errors.values():
        raise error
    not_run = [row for row, rate_hz in zip(asked, headers.rates_hz, strict=True) if not rate_hz]
    if not_run:
        raise refused_command(locations[not_run[0]])
    lengths_sec = np.full(len(data.recordings), np.nan)
    lengths_sec[asked] = headers.durations_sec
    return measure_all(data, lengths_sec)


def recording_rows(data: DataDir) -> np.ndarray:
    """Return the row of each utterance's recording in the table of recordings (N,)."""
    rows = data.recordings.rows(data.utterances.recordings)
    if len(rows) and rows.min() < 0:
        raise KeyError(data.utterances.recordings[int(rows.argmin())])
    return rows


def measure_all(data: DataDir, lengths_sec: np.ndarray) -> np.ndarray:
    """Return the duration of each utterance in seconds (N,), as `measure` does; NaN if unknown.

    `lengths_sec` (R,) are those of the recordings, NaN if unknown.
    """
    starts, ends = data.utterances.starts_sec, data.utterances.ends_sec
    is_open = np.isnan(ends)
    seconds = np.where(is_open, lengths_sec[recording_rows(data)], ends) - starts
    if data.duration_sec is not None and np.isnan(seconds).any():
        rows = data.duration_sec.rows(data.utterances.ids)
        stated = np.append(np.array(data.duration_sec.column, np.float64), np.nan)[rows]
        seconds = np.where(np.isnan(seconds), stated, seconds)
    return seconds


def _has_stated(data: DataDir) -> np.ndarray:
    """Return which utterances (N,) are in utt2dur."""
    if data.duration_sec is None:
        return np.zeros(len(data.utterances), bool)
    return data.duration_sec.rows(data.utterances.ids) >= 0


def measure(utterance: Utterance, stated: Mapping[str, float], length_sec: Length) -> float | None:
    """Return the duration of an utterance in seconds: from its times, else its recording, else utt2dur.

    >>> measure(Utterance("a-1", "a", "call", "YES", 0.5, 2.0), {}, lambda name: None)
    1.5
    """
    end_sec = utterance.end_sec if utterance.end_sec is not None else length_sec(utterance.recording)
    return stated.get(utterance.utt_id) if end_sec is None else end_sec - utterance.start_sec


def is_stated(data: DataDir, utterance: Utterance) -> bool:
    """Whether the duration of an utterance is taken from utt2dur, which may be out of date."""
    stated = data.duration_sec or {}
    is_open = utterance.end_sec is None and utterance.utt_id in stated
    return is_open and not is_present(data.recordings[utterance.recording])


def is_present(location: str) -> bool:
    """Whether a recording can be measured without running a command."""
    try:
        return not is_command(location) and os.path.exists(split_offset(location)[0])
    except (DataError, ValueError):
        return True  # probing it will report the problem
