"""Samples of recordings, at the rate a base model was trained with, and recordings made of samples."""

import io
import math
from pathlib import Path

import soundfile
import torch
from torch import Tensor
from torchaudio.functional import resample

from adaptkit.errors import DataError
from adaptkit.files import replacing
from adaptkit.kaldi.datadir import DataDir
from adaptkit.kaldi.recording import OVERSHOOT_SEC, Recording, opened, probe

__all__ = ["Recording", "audio_folder", "fit_full_scale", "probe", "read_audio", "write_audio"]

MOST_LEVEL = 8.0  # floats may exceed full scale a little; 16-bit values kept as floats reach thousands
MOST_KERNEL = 1 << 26  # values of a resampling kernel, 256 MiB; 44.1 to 16 kHz needs about 441 * 160


def read_audio(
    location: str,
    *,
    rate_hz: int,
    start_sec: float = 0.0,
    end_sec: float | None = None,
    allow_pipes: bool = False,
) -> Tensor:
    """Read a recording, or the segment from `start_sec` to `end_sec` of it, as samples (N,), full scale 1.

    Below 1 but for float recordings. One channel only; resampled where the recording has another rate.
    `recording` says what a location can be.
    """
    with opened(location, allow_pipes=allow_pipes) as (recording, file):
        if recording.num_channels != 1:
            raise DataError(
                f"{location}: {recording.num_channels} channels where one is needed; "
                "write the one to recognise as a file of its own (sox in.wav out.wav remix 1)"
            )
        first, last = _span(recording, start_sec, end_sec)
        samples = _read_samples(location, file, first, last)
    return _at_rate(samples, recording, rate_hz)


def write_audio(path: Path, speech: Tensor, *, rate_hz: int) -> None:
    """Write speech (N,) as 16 bits, clipped at full scale; a file that holds it already is not touched."""
    content = io.BytesIO()
    soundfile.write(content, speech.clamp(-1, 1).numpy(), rate_hz, format="WAV", subtype="PCM_16")
    if path.is_file() and path.read_bytes() == content.getvalue():
        return
    with replacing(path) as temporary:
        temporary.write_bytes(content.getvalue())


def fit_full_scale(speech: Tensor) -> Tensor:
    """Bring speech (N,) that exceeds full scale down as a whole; other speech is given back as it is.

    >>> fit_full_scale(torch.tensor([0.5, -2.0]))
    tensor([ 0.2500, -1.0000])
    """
    loudest = float(speech.abs().max())
    return speech / loudest if loudest > 1 else speech


def audio_folder(path: Path, source: DataDir) -> Path:
    """Give the folder for the audio of a data directory made of another, of which no file may be replaced."""
    folder = path.resolve() / "audio"
    is_inside = any(folder in Path(location).resolve().parents for location in source.recordings.values())
    if is_inside or path.resolve() == source.path.resolve():
        raise DataError(f"{path}: would replace the directory it is made of; choose another folder")
    return folder


def _span(recording: Recording, start_sec: float, end_sec: float | None) -> tuple[int, int]:
    """Give the first sample of a segment and the one after its last, clipped to the recording."""
    length_sec = recording.duration_sec
    end_sec = length_sec if end_sec is None else end_sec
    where = f"{recording.location} ({length_sec:.2f} s): the segment {start_sec:g} to {end_sec:g} s"
    remedy = "correct its times in segments or drop it"
    if not 0 <= start_sec < end_sec:
        raise DataError(f"{where} holds nothing; {remedy}")
    if end_sec > length_sec + OVERSHOOT_SEC:
        raise DataError(f"{where} ends after the recording; {remedy}")
    first = round(start_sec * recording.rate_hz)
    last = min(round(end_sec * recording.rate_hz), recording.num_samples)
    if first >= last:
        raise DataError(f"{where} holds no sample; {remedy}")
    return first, last


def _read_samples(location: str, file: soundfile.SoundFile, first: int, last: int) -> Tensor:
    try:
        file.seek(first)
        samples = torch.from_numpy(file.read(last - first, dtype="float32"))
    except soundfile.LibsndfileError as error:
        raise DataError(f"{location}: does not decode ({error.error_string}); fetch it again") from error
    if len(samples) != last - first:
        raise DataError(f"{location}: truncated after sample {first + len(samples)}; fetch it again")
    loudest = samples.abs().max()
    if not loudest <= MOST_LEVEL:  # or is no number
        raise DataError(f"{location}: samples reach {loudest:g} where 1 is full scale; convert it again")
    return samples


def _at_rate(samples: Tensor, recording: Recording, rate_hz: int) -> Tensor:
    if recording.rate_hz == rate_hz:
        return samples
    common = math.gcd(recording.rate_hz, rate_hz)
    if recording.rate_hz // common * (rate_hz // common) > MOST_KERNEL:
        raise DataError(
            f"{recording.location}: no short filter leads from {recording.rate_hz} Hz to {rate_hz} Hz; "
            f"convert it first (sox in.wav -r {rate_hz} out.wav)"
        )
    return resample(samples, recording.rate_hz, rate_hz)
