"""Read recordings as samples at the rate of a base model, and write samples as recordings."""

import io
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor
from torchaudio.functional import resample

from adaptkit.errors import DataError
from adaptkit.files import replacing
from adaptkit.kaldi.datadir import DataDir
from adaptkit.kaldi.durations import is_present, read_durations, recording_rows
from adaptkit.kaldi.probing import Headers, read_headers
from adaptkit.kaldi.recording import MOST_LEVEL, OVERSHOOT_SEC, Recording, SoundFile, opened, probe
from adaptkit.kaldi.utterances import Utterances

__all__ = [
    "Recording",
    "audio_file",
    "audio_folder",
    "count_samples",
    "fit_full_scale",
    "probe",
    "read_audio",
    "read_segments",
    "write_audio",
]

_CHUNK_SAMPLES = 1 << 20  # decoded at a time on the way to a segment, 4 MiB
MOST_KERNEL = 1 << 26  # values of a resampling kernel, 256 MiB; 44.1 to 16 kHz needs about 441 * 160


def read_audio(
    location: str,
    *,
    rate_hz: int,
    start_sec: float = 0.0,
    end_sec: float | None = None,
    allow_pipes: bool = False,
) -> Tensor:
    """Read a recording, or its segment from `start_sec` to `end_sec`, as samples (N,) with full scale 1.

    Only float recordings exceed 1. A recording must have one channel; it is resampled if its rate differs.
    The module `recording` describes the forms of a location.
    """
    span = (start_sec, end_sec)
    (samples,) = read_segments(location, [span], rate_hz=rate_hz, allow_pipes=allow_pipes)
    if isinstance(samples, DataError):
        raise samples
    return samples


def read_segments(
    location: str,
    spans: Sequence[tuple[float, float | None]],
    *,
    rate_hz: int,
    allow_pipes: bool = False,
) -> Iterator[Tensor | DataError]:
    """Yield the segments of a recording that is opened once; for an unreadable segment, yield its error.

    `spans` are starts and ends in seconds, in the order of their starts. Every segment is cut first and then
    resampled, so that its samples are those of `read_audio`, whatever else is read. At most the longest
    segment is held in memory; audio between segments is decoded only for formats that cannot seek.
    """
    with opened(location, allow_pipes=allow_pipes) as (recording, file):
        if recording.num_channels != 1:
            raise DataError(
                f"{location}: {recording.num_channels} channels where one is needed; "
                "extract the channel to recognise (sox in.wav out.wav remix 1)"
            )
        read = partial(_seek, location, file) if file.seekable() else _InOrder(location, file).read
        for start_sec, end_sec in spans:
            try:
                samples = read(*_span(recording, start_sec, end_sec))
                _refuse_loud(location, samples)
                yield _at_rate(samples, recording, rate_hz)
            except DataError as error:
                yield error


def count_samples(data: DataDir, *, rate_hz: int, allow_pipes: bool = False) -> list[int]:
    """Return the number of samples that `read_audio` returns for each utterance at a sampling rate.

    If a recording is a command or is missing, the number follows from the utterance's duration and may be off
    by some samples.
    """
    recordings = recording_rows(data)
    used, places = np.unique(recordings, return_inverse=True)
    locations = [data.recordings.column[row] for row in used]
    headers = read_headers(locations)
    for place, error in headers.errors.items():
        if is_present(locations[place]):
            raise error
    counts = _count_all(data.utterances, locations, headers, places, rate_hz)
    unknown = np.flatnonzero(headers.rates_hz[places] == 0)
    if len(unknown):
        others = replace(data, utterances=data.utterances.take(unknown))
        counts[unknown] = np.maximum(0, np.rint(read_durations(others, allow_pipes=allow_pipes) * rate_hz))
    return counts.tolist()


def _count_all(
    utterances: Utterances, locations: Sequence[str], headers: Headers, places: np.ndarray, rate_hz: int
) -> np.ndarray:
    """Return the results of `_span` and `_count_at_rate` for each utterance (N,); 0 where no header is known.

    `places` (N,) are the rows of the utterances' recordings.
    """
    rates_hz, totals = headers.rates_hz[places], headers.num_samples[places]
    starts, lengths = utterances.starts_sec, headers.durations_sec[places]
    ends = np.where(np.isnan(utterances.ends_sec), lengths, utterances.ends_sec)
    first = np.rint(starts * rates_hz)
    num_samples = np.minimum(np.rint(ends * rates_hz), totals) - first
    is_known = rates_hz > 0
    fits = (starts >= 0) & (starts < ends) & (ends <= lengths + OVERSHOOT_SEC) & (num_samples > 0)
    for row in np.flatnonzero(is_known & ~fits)[:1].tolist():
        figures = (int(rates_hz[row]), int(totals[row]), int(headers.num_channels[places[row]]))
        utterance = utterances[row]
        _span(Recording(locations[places[row]], *figures), utterance.start_sec, utterance.end_sec)
    counts = np.zeros(len(utterances), np.int64)
    for own_hz in np.unique(rates_hz[is_known]).tolist():
        own = rates_hz == own_hz
        counts[own] = _count_at_rate(num_samples[own], own_hz, rate_hz)
    return counts


def write_audio(path: Path, speech: Tensor, *, rate_hz: int) -> None:
    """Write speech (N,) as 16-bit WAV, clipped at full scale; an identical file is left untouched."""
    content = io.BytesIO()
    soundfile.write(content, speech.clamp(-1, 1).numpy(), rate_hz, format="WAV", subtype="PCM_16")
    if path.is_file() and path.read_bytes() == content.getvalue():
        return
    with replacing(path) as temporary:
        temporary.write_bytes(content.getvalue())


def fit_full_scale(speech: Tensor) -> Tensor:
    """Scale speech (N,) down if it exceeds full scale; return other speech unchanged.

    >>> fit_full_scale(torch.tensor([0.5, -2.0]))
    tensor([ 0.2500, -1.0000])
    """
    loudest = float(speech.abs().max())
    return speech / loudest if loudest > 1 else speech


def audio_folder(path: Path, source: DataDir) -> Path:
    """Return the audio folder of a data directory made from another, whose files must not be overwritten."""
    folder = path.resolve() / "audio"
    locations = (location for location in source.recordings.values() if "\0" not in location)
    is_inside = any(folder in Path(location).resolve().parents for location in locations)
    if is_inside or path.resolve() == source.path.resolve():
        raise DataError(f"{path}: would overwrite the directory it is made from; choose another folder")
    return folder


def audio_file(folder: Path, name: str) -> Path:
    """Return the file of a recording in an audio folder, also if its name is a path, as in some corpora.

    >>> audio_file(Path("audio"), "/corpus/ann/1").name
    '%2Fcorpus%2Fann%2F1.wav'
    """
    escaped = re.sub("[%/]", lambda match: f"%{ord(match[0]):02X}", name)
    return folder / f"{escaped}.wav"


def _span(recording: Recording, start_sec: float, end_sec: float | None) -> tuple[int, int]:
    """Return the first sample of a segment and the one after its last, clipped to the recording."""
    length_sec = recording.duration_sec
    end_sec = length_sec if end_sec is None else end_sec
    where = f"{recording.location} ({length_sec:.2f} s): the segment {start_sec:g} to {end_sec:g} s"
    remedy = "correct its times in segments or remove it"
    if not 0 <= start_sec < end_sec:
        raise DataError(f"{where} is empty; {remedy}")
    if end_sec > length_sec + OVERSHOOT_SEC:
        raise DataError(f"{where} ends after the recording; {remedy}")
    first = round(start_sec * recording.rate_hz)
    last = min(round(end_sec * recording.rate_hz), recording.num_samples)
    if first >= last:
        raise DataError(f"{where} contains no sample; {remedy}")
    return first, last


def _seek(location: str, file: SoundFile, first: int, last: int) -> Tensor:
    """Read samples `first` to `last` of a recording that can seek."""
    with _explained(location):
        file.seek(first)
        samples = torch.from_numpy(file.read(last - first, dtype="float32"))
    return _complete(location, samples, first, last)


class _InOrder:
    """Reads segments of a recording that is decoded in order, each beginning no earlier than the last."""

    def __init__(self, location: str, file: SoundFile):
        self.location, self.file = location, file
        self.first = 0
        self.held = torch.zeros(0)  # samples from `first` to where the file is

    def read(self, first: int, last: int) -> Tensor:
        """Read samples `first` to `last`."""
        with _explained(self.location):
            while self.first + len(self.held) <= first:  # not needed
                self.first += len(self.held)
                self.held = torch.from_numpy(self.file.read(_CHUNK_SAMPLES, dtype="float32"))
                if not len(self.held):
                    break
            self.held, self.first = self.held[first - self.first :], first
            missing = last - first - len(self.held)
            if missing > 0:
                more = torch.from_numpy(self.file.read(missing, dtype="float32"))
                self.held = torch.cat([self.held, more])
        return _complete(self.location, self.held[: last - first], first, last).clone()


@contextmanager
def _explained(location: str) -> Iterator[None]:
    try:
        yield
    except soundfile.LibsndfileError as error:
        raise DataError(f"{location}: cannot be decoded ({error.error_string}); fetch it again") from error


def _complete(location: str, samples: Tensor, first: int, last: int) -> Tensor:
    if len(samples) != last - first:
        raise DataError(f"{location}: truncated after sample {first + len(samples)}; fetch it again")
    return samples


def _refuse_loud(location: str, samples: Tensor) -> None:
    loudest = samples.abs().max()
    if not loudest <= MOST_LEVEL:  # or is not a number
        raise DataError(f"{location}: samples reach {loudest:g}, but full scale is 1; convert it again")


def _count_at_rate(num_samples: np.ndarray, own_hz: int, rate_hz: int) -> np.ndarray:
    """Return the numbers of samples (N,) after resampling, as torchaudio computes them, in float32."""
    common = math.gcd(own_hz, rate_hz)
    exact = rate_hz // common * num_samples / (own_hz // common)
    return np.ceil(exact.astype(np.float32)).astype(np.int64)


def _at_rate(samples: Tensor, recording: Recording, rate_hz: int) -> Tensor:
    if recording.rate_hz == rate_hz:
        return samples
    common = math.gcd(recording.rate_hz, rate_hz)
    if recording.rate_hz // common * (rate_hz // common) > MOST_KERNEL:
        raise DataError(
            f"{recording.location}: no short filter resamples {recording.rate_hz} Hz to {rate_hz} Hz; "
            f"convert it first (sox in.wav -r {rate_hz} out.wav)"
        )
    return resample(samples, recording.rate_hz, rate_hz)
