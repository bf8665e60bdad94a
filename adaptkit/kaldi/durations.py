"""Durations of utterances: from their times, the headers of their recordings, or utt2dur."""

from collections.abc import Callable, Mapping

from adaptkit.kaldi.datadir import DataDir, Utterance

Length = Callable[[str], float | None]  # seconds of a recording by its name; None if unknown


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
