"""A corpus as a policy meets it: how long its utterances are, and the features and speech of one of them."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from adaptkit.errors import DataError, listed
from adaptkit.features.fbank import FbankOptions, load_feats, log_mel, read_options
from adaptkit.kaldi import datadir
from adaptkit.kaldi.audio import read_audio
from adaptkit.kaldi.datadir import DataDir, Utterance
from adaptkit.kaldi.durations import measure
from adaptkit.kaldi.recording import probe
from adaptkit.kaldi.tables import read_table


@dataclass(frozen=True)
class Corpus:
    """A data directory and the feature frames of each of its utterances."""

    data: DataDir
    num_frames: Tensor  # (B,) in the order of the utterances
    num_bins: int
    options: FbankOptions | None  # how its features are made; None where Kaldi itself made them

    @property
    def path(self) -> Path:
        """The data directory."""
        return self.data.path

    @property
    def utt_ids(self) -> list[str]:
        """The utterances."""
        return [utterance.utt_id for utterance in self.data.utterances]

    @property
    def frame_sec(self) -> float:
        """Seconds from one frame to the next; 10 ms where it is not written, which is Kaldi's default."""
        return (self.options.shift_ms if self.options else FbankOptions.shift_ms) / 1000

    def median(self) -> Utterance:
        """Find the utterance of median length, the first of several."""
        half = self.num_frames.sort().values[len(self.num_frames) // 2]
        return self.data.utterances[int((self.num_frames == half).nonzero()[0])]

    def load_speech(self, utterance: Utterance) -> Tensor:
        """Read the speech (N,) of an utterance at the rate of the features."""
        return read_audio(
            self.data.recordings[utterance.recording],
            rate_hz=(self.options or FbankOptions()).rate_hz,
            start_sec=utterance.start_sec,
            end_sec=utterance.end_sec,
        )

    def load(self, utterance: Utterance) -> Tensor:
        """Load the features (T, F) of an utterance, or make them where there are none."""
        if self.data.feats is None:
            return log_mel(self.load_speech(utterance), self.options)
        return load_feats(self.data.feats[utterance.utt_id])


def read_corpus(path: Path) -> Corpus:
    """Read a data directory with features, or without: then with those that `adaptkit feats` would make.

    Without features the lengths follow from the durations.
    """
    data = datadir.read(path)
    if data.feats is None:
        options = FbankOptions()
        frames = [options.count_frames(round(seconds * options.rate_hz)) for seconds in _durations(data)]
        return Corpus(data, torch.tensor(frames), options.num_bins, options)
    missing = [u.utt_id for u in data.utterances if u.utt_id not in data.feats]
    if missing:
        remedy = f"'adaptkit feats {data.path} dump/{data.path.name}' makes them"
        raise DataError(f"{data.path}/feats.scp: misses {listed(missing)}; {remedy}")
    num_bins = load_feats(data.feats[data.utterances[0].utt_id]).shape[1]
    made = data.path / "feats.json"
    options = read_options(made) if made.exists() else None
    return Corpus(data, torch.tensor(count_frames(data)), num_bins, options)


def count_frames(data: DataDir) -> list[int]:
    """Count the frames of each utterance's features: by `utt2num_frames`, else in the features themselves."""
    table = data.path / "utt2num_frames"
    if table.exists():
        counts = read_table(table)
        wrong = [u.utt_id for u in data.utterances if not counts.get(u.utt_id, "").isdecimal()]
        if wrong:
            raise DataError(f"{table}: no number for {listed(wrong)}; delete the file, it is optional")
        return [int(counts[utterance.utt_id]) for utterance in data.utterances]
    return [len(load_feats(data.feats[utterance.utt_id])) for utterance in data.utterances]


def _durations(data: DataDir) -> Iterator[float]:
    """Yield the seconds of each utterance; headers are read where neither its times nor utt2dur say."""
    stated = data.duration_sec or {}
    for utterance in data.utterances:
        if utterance.end_sec is None and utterance.utt_id in stated:
            yield stated[utterance.utt_id]
        else:
            yield measure(utterance, {}, lambda name: probe(data.recordings[name]).duration_sec)
