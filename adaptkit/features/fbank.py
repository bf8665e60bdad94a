"""Log-mel filterbanks as computed by Kaldi, and statistics for their normalisation (CMVN)."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from torch import Tensor
from torchaudio.compliance import kaldi

from adaptkit.errors import ConfigError, DataError, nearest
from adaptkit.files import read_text, replacing, require_regular

_BOUNDS = {  # of options, to limit the memory to some MB; rate_hz and num_bins are integers
    "rate_hz": (1000, 768_000),
    "num_bins": (4, 1024),
    "window_ms": (1, 1000),
    "shift_ms": (0.1, 1000),
    "low_hz": (0, 384_000),
    "high_hz": (-384_000, 384_000),
}


@dataclass(frozen=True)
class FbankOptions:
    """Options of log-mel filterbanks; defaults are Kaldi's, except the number of bins, which is ESPnet's.

    Frames are whole windows only (snip-edges), with Povey windows and without dither: the same speech gives
    bit-identical features.
    """

    rate_hz: int = 16000
    num_bins: int = 80
    window_ms: float = 25.0
    shift_ms: float = 10.0
    low_hz: float = 20.0
    high_hz: float = 0.0  # relative to half the rate if zero or negative

    def __post_init__(self) -> None:
        for name, (lowest, highest) in _BOUNDS.items():
            value = getattr(self, name)
            kinds = int if name in ("rate_hz", "num_bins") else (int, float)
            if isinstance(value, bool) or not isinstance(value, kinds) or not lowest <= value <= highest:
                raise ConfigError(f"{name}: expected a number from {lowest} to {highest}, found {value!r}")
        top_hz = self.high_hz + (self.rate_hz / 2 if self.high_hz <= 0 else 0)
        if not 0 <= self.low_hz < top_hz <= self.rate_hz / 2:
            raise ConfigError(
                f"filterbanks from {self.low_hz} to {top_hz} Hz do not fit a rate of {self.rate_hz} Hz"
            )
        if self.num_bins < 4 or self.shift_samples < 1 or self.window_samples < 2:
            raise ConfigError(f"expected at least 4 bins, a window and a shift, found {asdict(self)}")
        padded = 1 << (self.window_samples - 1).bit_length()
        weights, _ = kaldi.get_mel_banks(
            self.num_bins, padded, self.rate_hz, self.low_hz, self.high_hz, 100.0, -500.0, 1.0
        )
        num_empty = int((weights.sum(dim=1) == 0).sum())
        if num_empty:  # they would be constant, with a variance of zero
            raise ConfigError(
                f"{num_empty} of {self.num_bins} mel bins are empty at {self.rate_hz} Hz; use fewer bins"
            )

    @property
    def window_samples(self) -> int:
        """Samples per window, rounded down as in Kaldi."""
        return int(self.rate_hz * self.window_ms * 0.001)

    @property
    def shift_samples(self) -> int:
        """Samples between the starts of two windows, rounded down as in Kaldi."""
        return int(self.rate_hz * self.shift_ms * 0.001)

    def count_frames(self, num_samples: int) -> int:
        """Count the whole windows that fit in a recording.

        >>> FbankOptions().count_frames(16000)
        98
        """
        return max(0, 1 + (num_samples - self.window_samples) // self.shift_samples)

    def to_dict(self) -> dict[str, float]:
        """Return the options by name, as stored in `feats.json`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, options: Mapping[str, float]) -> "FbankOptions":
        """Create options from names and values; an unknown name is a ConfigError.

        >>> FbankOptions.from_dict({"num_bins": 40}).num_bins
        40
        """
        known = [option.name for option in fields(cls)]
        for name in options:
            if name not in known:
                raise ConfigError(f"filterbanks have no option '{name}'{nearest(name, known)}")
        return cls(**options)


def read_options(path: Path) -> FbankOptions:
    """Read the options of a directory's features from the `feats.json` that `adaptkit feats` writes."""
    require_regular(path)
    try:
        return FbankOptions.from_dict(json.loads(read_text(path)))
    except (ValueError, TypeError, AttributeError, RecursionError, ConfigError) as error:
        raise DataError(f"{path}: not feature options: {error}; 'adaptkit feats' writes it again") from error


def log_mel(speech: Tensor, options: FbankOptions) -> Tensor:
    """Compute log-mel filterbanks (T, F) of speech (N,) in [-1, 1), scaled to Kaldi's 16-bit range.

    The values are those of `torchaudio.compliance.kaldi.fbank`. It builds its mel matrix in each call, which
    takes 0.3 of the 2.5 ms for 3 s of speech: too little for a cache, which would duplicate its private code.
    """
    if speech.numel() < options.window_samples:
        raise DataError(f"{speech.numel()} samples are shorter than one window of {options.window_samples}")
    return kaldi.fbank(
        speech.unsqueeze(0) * 2**15,
        sample_frequency=options.rate_hz,
        num_mel_bins=options.num_bins,
        frame_length=options.window_ms,
        frame_shift=options.shift_ms,
        low_freq=options.low_hz,
        high_freq=options.high_hz,
    )


@dataclass(frozen=True)
class CmvnStats:
    """Sums over all frames for the mean and variance of each bin, in float64."""

    num_frames: int
    sum: np.ndarray  # (F,)
    sum_square: np.ndarray  # (F,)


def cmvn_stats(feats: Iterable[Tensor]) -> CmvnStats:
    """Accumulate statistics of the features (T, F) of many utterances for mean and variance normalisation."""
    num_frames, total, squares = 0, np.zeros(1), np.zeros(1)
    for frames in feats:
        frames = frames.double().numpy()
        num_frames += len(frames)
        total = total + frames.sum(axis=0)
        squares = squares + np.square(frames).sum(axis=0)
    if not num_frames:
        raise DataError("no features to compute mean and variance from")
    return CmvnStats(num_frames, total, squares)


def write_cmvn(path: Path, stats: CmvnStats) -> None:
    """Write statistics as ESPnet's `normalize: global_mvn` reads them (its `stats_file`)."""
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, count=stats.num_frames, sum=stats.sum, sum_square=stats.sum_square)
