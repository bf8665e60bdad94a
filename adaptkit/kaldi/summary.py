"""Statistics of a data directory."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from adaptkit.characters import split_words
from adaptkit.errors import DataError
from adaptkit.kaldi.datadir import DataDir
from adaptkit.kaldi.durations import measure_all
from adaptkit.kaldi.recording import is_command, probe


@dataclass(frozen=True)
class Summary:
    """Counts of a data directory, and the durations of its utterances."""

    num_utterances: int
    num_speakers: int
    num_tasks: int
    num_groups: int
    num_words: int
    total_sec: float
    min_sec: float
    max_sec: float
    num_recordings_by_hz: Mapping[int, int]  # without commands that were not run
    has_feats: bool

    @property
    def mean_sec(self) -> float:
        """The mean duration of an utterance."""
        return self.total_sec / self.num_utterances


def summarise(data: DataDir, *, allow_pipes: bool = False) -> Summary:
    """Summarise a data directory, reading the headers of its recordings."""
    found = {
        name: probe(location, allow_pipes=allow_pipes)
        for name, location in data.recordings.items()
        if allow_pipes or not is_command(location)
    }
    lengths_sec = {name: recording.duration_sec for name, recording in found.items()}
    seconds = _durations(data, lengths_sec)
    return Summary(
        num_utterances=len(data.utterances),
        num_speakers=len({u.speaker for u in data.utterances}),
        num_tasks=len(data.tasks),
        num_groups=len({u.group for u in data.utterances if u.group}),
        num_words=sum(len(split_words(u.text)) for u in data.utterances),
        total_sec=sum(seconds),
        min_sec=min(seconds),
        max_sec=max(seconds),
        num_recordings_by_hz=Counter(recording.rate_hz for recording in found.values()),
        has_feats=data.feats is not None,
    )


def _durations(data: DataDir, lengths_sec: Mapping[str, float]) -> list[float]:
    """Return the duration of each utterance in seconds; a command that was not run is a DataError."""
    seconds = measure_all(data, lengths_sec.get)
    for utterance in data.utterances:
        if seconds[utterance.utt_id] is None:
            location = data.recordings[utterance.recording]
            raise DataError(f"{location}: a command that was not run; --allow-pipes runs it")
    return list(seconds.values())
