"""Decode whole recordings, and measure the peaks of their segments."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import soundfile

from adaptkit.errors import DataError
from adaptkit.kaldi.headers import truncated
from adaptkit.kaldi.recording import Recording, SoundFile, find_plain, opened
from adaptkit.kaldi.wav import blocks_of_16_bits

_CHUNK_SAMPLES = 1 << 20


@dataclass(frozen=True)
class Levels:
    """A decoded recording, and the largest magnitude in each segment; NaN if a sample is not a number."""

    recording: Recording
    peaks: tuple[float, ...]


def measure_levels(
    location: str, spans: Sequence[tuple[float, float | None]], *, allow_pipes: bool = False
) -> Levels:
    """Decode a recording from beginning to end, 4 MiB at a time; a failure is a DataError.

    `spans` are starts and ends of segments in seconds. Recordings with several channels are not decoded.
    """
    wav = find_plain(location)
    if wav is not None:
        recording = Recording(location, wav.rate_hz, wav.num_samples, wav.num_channels)
        blocks = blocks_of_16_bits(location, wav, _CHUNK_SAMPLES) if wav.sample_bytes == 2 else None
        if blocks is not None or recording.num_channels != 1:
            return _measure(recording, blocks, spans)
    with opened(location, allow_pipes=allow_pipes) as (recording, file):
        return _measure(recording, _decode(recording, file), spans)


def _decode(recording: Recording, file: SoundFile) -> Iterator[np.ndarray]:
    """Decode a recording with one channel, some samples at a time."""
    place, total = 0, recording.num_samples
    while place < total:
        try:
            samples = file.read(min(_CHUNK_SAMPLES, total - place), dtype="float32")
        except soundfile.LibsndfileError as error:
            what = f"cannot be decoded after sample {place} ({error.error_string})"
            raise DataError(f"{recording.location}: {what}; fetch it again") from error
        yield samples
        place += len(samples)


def _measure(
    recording: Recording, blocks: Iterable[np.ndarray], spans: Sequence[tuple[float, float | None]]
) -> Levels:
    """Measure a recording given as blocks of samples; with several channels, nothing is measured."""
    rate_hz, total, length_sec = recording.rate_hz, recording.num_samples, recording.duration_sec
    starts = [round(min(start, length_sec) * rate_hz) for start, _ in spans]
    ends = [total if end is None else round(min(end, length_sec) * rate_hz) for _, end in spans]
    peaks, place = np.zeros(len(spans), np.float32), 0
    for samples in blocks if recording.num_channels == 1 else ():
        if not len(samples):
            raise truncated(recording.location, f"{place} of {total} samples")
        for row, (start, end) in enumerate(zip(starts, ends, strict=True)):
            part = samples[max(0, start - place) : max(0, end - place)]
            if len(part):
                peaks[row] = np.maximum(peaks[row], _peak(part))
        place += len(samples)
    return Levels(recording, tuple(map(float, peaks)))


def _peak(samples: np.ndarray) -> float:
    """Return the largest magnitude of samples, with full scale 1; NaN if one is not a number."""
    if samples.dtype == np.float32:
        return float(np.abs(samples).max())
    return max(int(samples.max()), -int(samples.min())) / 2**15
