"""Decode whole recordings, and measure how loud their segments are."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import soundfile

from adaptkit.errors import DataError
from adaptkit.kaldi.headers import truncated
from adaptkit.kaldi.recording import Recording, opened

_CHUNK_SAMPLES = 1 << 20


@dataclass(frozen=True)
class Levels:
    """A recording that was decoded, and the largest magnitude in each segment; NaN if one is no number."""

    recording: Recording
    peaks: tuple[float, ...]


def measure_levels(
    location: str, spans: Sequence[tuple[float, float | None]], *, allow_pipes: bool = False
) -> Levels:
    """Decode a recording from beginning to end, 4 MiB at a time; what cannot be decoded is a DataError.

    `spans` are starts and ends of segments in seconds. Several channels are not decoded.
    """
    with opened(location, allow_pipes=allow_pipes) as (recording, file):
        rate_hz, total = recording.rate_hz, recording.num_samples
        length_sec = recording.duration_sec
        starts = [round(min(start, length_sec) * rate_hz) for start, _ in spans]
        ends = [total if end is None else round(min(end, length_sec) * rate_hz) for _, end in spans]
        peaks = np.zeros(len(spans), np.float32)
        place = 0
        while place < total and recording.num_channels == 1:
            try:
                loudness = np.abs(file.read(min(_CHUNK_SAMPLES, total - place), dtype="float32"))
            except soundfile.LibsndfileError as error:
                what = f"cannot be decoded after sample {place} ({error.error_string})"
                raise DataError(f"{location}: {what}; fetch it again") from error
            if not len(loudness):
                raise truncated(location, f"{place} of {total} samples")
            for row, (start, end) in enumerate(zip(starts, ends, strict=True)):
                part = loudness[max(0, start - place) : max(0, end - place)]
                peaks[row] = np.maximum(peaks[row], part.max(initial=0))
            place += len(loudness)
        return Levels(recording, tuple(map(float, peaks)))
