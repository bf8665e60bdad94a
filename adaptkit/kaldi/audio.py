"""Read recordings as samples at the rate of a base model, and write samples as recordings."""

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

MOST_LEVEL = 8.0  # floats may slightly exceed full scale; 16-bit values stored as floats reach thousands
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
    The module `recording` describes what a location can be.
    """
    with opened(location, allow_pipes=allow_pipes) as (recording, file):
        if recording.num_channels != 1:
            raise DataError(
                f"{location}: {recording.num_channels} channels where one is needed; "
                "extract the channel to recognise (sox in.wav out.wav remix 1)"
            )
        first, last = _span(recording, start_sec, end_sec)
        samples = _read_samples(location, file, first, last)
    return _at_rate(samples, recording, rate_hz)


def write_audio(path: Path, speech: Tensor, *, rate_hz: int) -> None:
    """Write speech (N,) as 16-bit WAV, clipped at full scale; an identical file is left untouched."""
    content = io.BytesIO()
    soundfile.write(content, speech.clamp(-1, 1).numpy(), rate_hz, format="WAV", subtype="PCM_16")
    if path.is_file() and path.read_bytes() == content.getvalue():
        return
    with replacing(path) as temporary:
        temporary.write_bytes(content.getvalue())


def fit_full_scale(speech: Tensor) -> Tensor:
    """Scale speech (N,) down if it exceeds full scale; return other speech as it is.

    >>> fit_full_scale(torch.tensor([0.5, -2.0]))
    tensor([ 0.2500, -1.0000])
    """
    loudest = float(speech.abs().max())
    return speech / loudest if loudest > 1 else speech


def audio_folder(path: Path, source: DataDir) -> Path:
    """Return the audio folder of a data directory made from another, whose files must not be overwritten."""
    folder = path.resolve() / "audio"
    is_inside = any(folder in Path(location).resolve().parents for location in source.recordings.values())
    if is_inside or path.resolve() == source.path.resolve():
        raise DataError(f"{path}: would overwrite the directory it is made from; choose another folder")
    return folder


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


def _read_samples(location: str, file: soundfile.SoundFile, first: int, last: int) -> Tensor:
    try:
        file.seek(first)
        samples = torch.from_numpy(file.read(last - first, dtype="float32"))
    except soundfile.LibsndfileError as error:
        raise DataError(f"{location}: cannot be decoded ({error.error_string}); fetch it again") from error
    if len(samples) != last - first:
        raise DataError(f"{location}: truncated after sample {first + len(samples)}; fetch it again")
    loudest = samples.abs().max()
    if not loudest <= MOST_LEVEL:  # or is not a number
        raise DataError(f"{location}: samples reach {loudest:g}, but full scale is 1; convert it again")
    return samples


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
