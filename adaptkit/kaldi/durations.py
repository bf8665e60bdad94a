"""Durations of utterances: from their times, the headers of their recordings, or utt2dur."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from adaptkit.errors import DataError
from adaptkit.kaldi.datadir import DataDir, Utterance
from adaptkit.kaldi.recording import is_command, probe, split_offset

NUM_THREADS = 8  # that open recordings; a network drive takes milliseconds for each

Length = Callable[[str], float | None]  # seconds of a recording by its name; None if unknown


def read_durations(data: DataDir, *, allow_pipes: bool = False) -> dict[str, float]:
    """Return the duration of each utterance in seconds, by its id.

    It follows from its times in segments or the header of its recording. Only where that is a command, or is
    not there, utt2dur is believed, which may be out of date; without it, commands are run where allowed.
    """
    stated = data.duration_sec or {}
    endless = {u.recording: u.utt_id for u in data.utterances if u.end_sec is None}
    asked = [
        name for name, utt_id in endless.items() if is_present(data.recordings[name]) or utt_id not in stated
    ]

    def length_sec(name: str) -> float:
        return probe(data.recordings[name], allow_pipes=allow_pipes).duration_sec

    with ThreadPoolExecutor(NUM_THREADS) as pool:
        lengths_sec = dict(zip(asked, pool.map(length_sec, asked), strict=True))
    return {utt_id: seconds or 0.0 for utt_id, seconds in measure_all(data, lengths_sec.get).items()}


def measure_all(data: DataDir, length_sec: Length) -> dict[str, float | None]:
    """Return the duration of each utterance in seconds, by its id; None if unknown.

    `length_sec` is called for the recordings of utterances without an end time. See `measure`.
    """
    stated = data.duration_sec or {}
    return {u.utt_id: measure(u, stated, length_sec) for u in data.utterances}


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
        return not is_command(location) and Path(split_offset(location)[0]).exists()
    except (DataError, ValueError):
        return True  # and probing it says what is wrong
