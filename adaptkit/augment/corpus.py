"""A corpus to which a policy is applied: lengths of all utterances, features and speech of single ones."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from adaptkit.errors import DataError, listed, shell_word
from adaptkit.features.archive import count_recorded, load_feats
from adaptkit.features.fbank import FbankOptions, log_mel, read_options
from adaptkit.kaldi import datadir
from adaptkit.kaldi.audio import read_audio
from adaptkit.kaldi.datadir import DataDir, Utterance
from adaptkit.kaldi.durations import read_durations
from adaptkit.kaldi.tables import read_table

_NUMBER = re.compile("[0-9]{1,9}")


@dataclass(frozen=True)
class Corpus:
    """A data directory and the feature frames of each of its utterances."""

    data: DataDir
    num_frames: Tensor  # (B,) in the order of the utterances
    num_bins: int
    options: FbankOptions | None  # of its features; None if made by Kaldi itself
    allow_pipes: bool = False  # run the commands of wav.scp

    @property
    def path(self) -> Path:
        """The data directory."""
        return self.data.path

    @property
    def utt_ids(self) -> list[str]:
        """The utterance ids."""
        return list(self.data.utterances.ids)

    @property
    def frame_sec(self) -> float:
        """Seconds from one frame to the next; 10 ms, Kaldi's default, if it is not recorded."""
        return (self.options.shift_ms if self.options else FbankOptions.shift_ms) / 1000

    def median(self) -> Utterance:
        """Return the utterance of median length, the first if there are several."""
        half = self.num_frames.sort().values[len(self.num_frames) // 2]
        return self.data.utterances[int((self.num_frames == half).nonzero()[0])]

    def load_speech(self, utterance: Utterance) -> Tensor:
        """Read the speech (N,) of an utterance at the sampling rate of the features."""
        return read_audio(
            self.data.recordings[utterance.recording],
            rate_hz=(self.options or FbankOptions()).rate_hz,
            start_sec=utterance.start_sec,
            end_sec=utterance.end_sec,
            allow_pipes=self.allow_pipes,
        )

    def load(self, utterance: Utterance) -> Tensor:
        """Load the features (T, F) of an utterance, or compute them if there are none."""
        if self.data.feats is None:
            return log_mel(self.load_speech(utterance), self.options)
        return load_feats(self.data.feats[utterance.utt_id])


def read_corpus(path: Path, *, allow_pipes: bool = False) -> Corpus:
    """Read a data directory; if it has no features, assume those of `adaptkit feats`.

    The lengths then follow from the durations.
    """
    data = datadir.read(path, needs_text=False)
    if data.feats is None:
        options = FbankOptions()
        frames = [
            options.count_frames(round(seconds * options.rate_hz))
            for seconds in read_durations(data, allow_pipes=allow_pipes).tolist()
        ]
        return Corpus(data, torch.tensor(frames), options.num_bins, options, allow_pipes)
    missing = data.utterances.ids.take(np.flatnonzero(data.feats.rows(data.utterances.ids) < 0))
    if len(missing):
        remedy = f"'adaptkit feats {shell_word(data.path)} dump/{shell_word(data.path.name)}' makes them"
        raise DataError(f"{data.path}/feats.scp: missing {listed(missing)}; {remedy}")
    num_bins = load_feats(data.feats[data.utterances[0].utt_id]).shape[1]
    made = data.path / "feats.json"
    options = read_options(made) if made.exists() else None
    return Corpus(data, torch.tensor(count_frames(data)), num_bins, options, allow_pipes)


def count_frames(data: DataDir) -> list[int]:
    """Return the number of feature frames of each utterance.

    They come from the records of adaptkit's archives; for Kaldi's archives, from `utt2num_frames` or the
    archives themselves.
    """
    locations = data.feats.column.take(data.feats.rows(data.utterances.ids))
    recorded = count_recorded(locations)
    if recorded is not None:
        return recorded
    table = data.path / "utt2num_frames"
    if table.exists():
        counts = read_table(table)
        wrong = [name for name in data.utterances.ids if not _NUMBER.fullmatch(counts.get(name, ""))]
        if wrong:
            raise DataError(f"{table}: no number for {listed(wrong)}; delete the file, it is optional")
        return [int(counts[name]) for name in data.utterances.ids]
    return [len(load_feats(location)) for location in locations]
