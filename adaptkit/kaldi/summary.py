"""Statistics of a data directory."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from adaptkit.characters import split_words
from adaptkit.errors import DataError
from adaptkit.kaldi.datadir import DataDir
from adaptkit.kaldi.durations import measure_all
from adaptkit.kaldi.probing import read_headers


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
    num_recordings_by_hz: Mapping[int, int]  # except commands that were not run
    has_feats: bool

    @property
    def mean_sec(self) -> float:
        """The mean duration of an utterance."""
        return self.total_sec / self.num_utterances


def summarise(data: DataDir, *, allow_pipes: bool = False, num_jobs: int = 1) -> Summary:
    """Summarise a data directory, reading the header of each of its recordings."""
    headers = read_headers(data.recordings.column, allow_pipes=allow_pipes, num_jobs=num_jobs)
    for error in headers.errors.values():
        raise error
    seconds = measure_all(data, headers.durations_sec)
    for row in np.flatnonzero(np.isnan(seconds))[:1].tolist():
        location = data.recordings[data.utterances.recordings[row]]
        raise DataError(f"{location}: a command that was not run; --allow-pipes runs it")
    rates_hz, counts = np.unique(headers.rates_hz[headers.rates_hz > 0], return_counts=True)
    utterances = data.utterances
    return Summary(
        num_utterances=len(utterances),
        num_speakers=len(utterances.speakers.used()),
        num_tasks=len(data.tasks),
        num_groups=len(list(filter(None, utterances.groups.used()))),
        num_words=sum(len(split_words(text)) for text in utterances.texts),
        total_sec=float(seconds.sum()),
        min_sec=float(seconds.min()),
        max_sec=float(seconds.max()),
        num_recordings_by_hz=dict(zip(rates_hz.tolist(), counts.tolist(), strict=True)),
        has_feats=data.feats is not None,
    )
