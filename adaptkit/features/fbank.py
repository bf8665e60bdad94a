"""Log-mel filterbanks as Kaldi makes them, and the statistics that normalise them (CMVN)."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import torch
from kaldiio.matio import read_kaldi
from torch import Tensor
from torchaudio.compliance import kaldi

from adaptkit.errors import ConfigError, DataError, nearest
from adaptkit.files import describe, read_text, replacing


@dataclass(frozen=True)
class FbankOptions:
    """How filterbanks are made; the defaults are Kaldi's but for the number of bins, which is ESPnet's.

    Frames are whole windows only (snip-edges), windows are Povey's, and there is no dither: the same speech
    gives the same features, bit for bit.
    """

    rate_hz: int = 16000
    num_bins: int = 80
    window_ms: float = 25.0
    shift_ms: float = 10.0
    low_hz: float = 20.0
    high_hz: float = 0.0  # counted from half the rate where it is zero or negative

    def __post_init__(self) -> None:
        top_hz = self.high_hz + (self.rate_hz / 2 if self.high_hz <= 0 else 0)
        if not 0 <= self.low_hz < top_hz <= self.rate_hz / 2:
            raise ConfigError(
                f"filterbanks from {self.low_hz} to {top_hz} Hz do not fit a rate of {self.rate_hz} Hz"
            )
        if self.num_bins < 4 or self.shift_samples < 1 or self.window_samples < 2:
            raise ConfigError(f"at least 4 bins, a window and a shift are needed; these are {asdict(self)}")
        padded = 1 << (self.window_samples - 1).bit_length()
        weights, _ = kaldi.get_mel_banks(
            self.num_bins, padded, self.rate_hz, self.low_hz, self.high_hz, 100.0, -500.0, 1.0
        )
        num_empty = int((weights.sum(dim=1) == 0).sum())
        if num_empty:  # they would be constant, and their variance nothing to divide by
            raise ConfigError(
                f"{num_empty} of {self.num_bins} bins hold no frequency at {self.rate_hz} Hz; take fewer bins"
            )

    @property
    def window_samples(self) -> int:
        """Samples of a window, rounded down as Kaldi does."""
        return int(self.rate_hz * self.window_ms * 0.001)

    @property
    def shift_samples(self) -> int:
        """Samples between the starts of two windows, rounded down as Kaldi does."""
        return int(self.rate_hz * self.shift_ms * 0.001)

    def count_frames(self, num_samples: int) -> int:
        """Count the whole windows that fit in a recording.

        >>> FbankOptions().count_frames(16000)
        98
        """
        return max(0, 1 + (num_samples - self.window_samples) // self.shift_samples)

    def to_dict(self) -> dict[str, float]:
        """Give the options by name, as `feats.json` keeps them."""
        return asdict(self)

    @classmethod
    def from_dict(cls, options: Mapping[str, float]) -> "FbankOptions":
        """Make options from names and values; an unknown name is a ConfigError.

        >>> FbankOptions.from_dict({"num_bins": 40}).num_bins
        40
        """
        known = [option.name for option in fields(cls)]
        for name in options:
            if name not in known:
                raise ConfigError(f"filterbanks have no option '{name}'{nearest(name, known)}")
        return cls(**options)


def read_options(path: Path) -> FbankOptions:
    """Read how a directory's features were made, from the `feats.json` that `adaptkit feats` left there."""
    try:
        return FbankOptions.from_dict(json.loads(read_text(path)))
    except (json.JSONDecodeError, TypeError) as error:
        raise DataError(f"{path}: not the options of features; 'adaptkit feats' writes it anew") from error


def log_mel(speech: Tensor, options: FbankOptions) -> Tensor:
    """Make log-mel filterbanks (T, F) of speech (N,) in [-1, 1), which is brought to Kaldi's 16-bit range.

    The values are those of `torchaudio.compliance.kaldi.fbank`. It builds its mel matrix anew at each call,
    0.3 of the 2.5 ms that 3 s of speech take: not worth a cache, which would repeat its private code.
    """
    if speech.numel() < options.window_samples:
        raise DataError(f"{speech.numel()} samples are less than one window of {options.window_samples}")
    return kaldi.fbank(
        speech.unsqueeze(0) * 2**15,
        sample_frequency=options.rate_hz,
        num_mel_bins=options.num_bins,
        frame_length=options.window_ms,
        frame_shift=options.shift_ms,
        low_freq=options.low_hz,
        high_freq=options.high_hz,
    )


def load_feats(location: str) -> Tensor:
    """Load the features (T, F) that an entry of `feats.scp` names: `archive:offset`, or a file of one matrix.

    Only Kaldi's binary matrices are read. kaldiio would also run commands and unpickle what an archive holds.
    """
    path, colon, offset = location.rpartition(":")
    if not (colon and offset.isdigit()):
        path, offset = location, "0"
    try:
        with open(path, "rb") as archive:
            archive.seek(int(offset))
            if archive.read(2) != b"\0B":
                raise DataError(
                    f"{location}: no Kaldi matrix stands there; 'adaptkit feats' makes the features again"
                )
            archive.seek(int(offset))
            return torch.from_numpy(np.array(read_kaldi(archive), dtype=np.float32))
    except OSError as error:
        raise DataError(f"{describe(error, path)}; 'adaptkit feats' makes the features again") from error


@dataclass(frozen=True)
class CmvnStats:
    """Sums over every frame from which a mean and a variance per bin follow, in float64."""

    num_frames: int
    sum: np.ndarray  # (F,)
    sum_square: np.ndarray  # (F,)


def cmvn_stats(feats: Iterable[Tensor]) -> CmvnStats:
    """Sum the features (T, F) of many utterances for cepstral mean and variance normalisation."""
    num_frames, total, squares = 0, np.zeros(1), np.zeros(1)
    for frames in feats:
        frames = frames.double().numpy()
        num_frames += len(frames)
        total = total + frames.sum(axis=0)
        squares = squares + np.square(frames).sum(axis=0)
    if not num_frames:
        raise DataError("no features to take a mean and a variance of")
    return CmvnStats(num_frames, total, squares)


def write_cmvn(path: Path, stats: CmvnStats) -> None:
    """Write statistics as ESPnet's `normalize: global_mvn` reads them (its `stats_file`)."""
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, count=stats.num_frames, sum=stats.sum, sum_square=stats.sum_square)
