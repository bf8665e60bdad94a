"""The body of a request: received up to a size limit, and decoded as an audio file."""

import math
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

import soundfile
from torch import Tensor

from adaptkit.errors import DataError
from adaptkit.files import held_in_memory
from adaptkit.kaldi.audio import probe, read_audio
from adaptkit.serve.schemas import Refusal

MOST_KERNEL = 1 << 22  # values of a resampling kernel, 16 MiB; unusual rates would take seconds and gigabytes

_AS_IT_IS = "send the audio file as it is (curl --data-binary @speech.wav)"


@dataclass(frozen=True)
class Speech:
    """Speech (N,) at the requested rate, and the duration of the recording."""

    samples: Tensor
    duration_sec: float


async def receive(
    headers: Mapping[str, str], chunks: AsyncIterator[bytes], most_bytes: int, *, remedy: str = _AS_IT_IS
) -> bytes:
    """Receive a body; stop as soon as its announced or received size exceeds the limit."""
    announced = headers.get("content-length", "0")
    if announced.isdigit() and int(announced) > most_bytes:
        raise _too_large(f"{int(announced)} bytes", most_bytes)
    body = bytearray()
    async for chunk in chunks:
        body += chunk
        if len(body) > most_bytes:
            raise _too_large("more", most_bytes)
    if not body:
        raise Refusal(400, f"the body is empty; {remedy}")
    return bytes(body)


def read_speech(body: bytes, *, rate_hz: int, most_sec: float) -> Speech:
    """Read an audio file as `adaptkit decode` reads recordings; refuse what cannot be recognised."""
    if body.startswith(b"--"):  # the boundary of multipart/form-data
        raise Refusal(415, f"the body is a form; {_AS_IT_IS}")
    with held_in_memory(body) as location:
        try:
            recording = probe(location)
            _refuse_too_long(recording.duration_sec, most_sec)
            _refuse_odd_rate(recording.rate_hz, rate_hz)
            return Speech(read_audio(location, rate_hz=rate_hz), recording.duration_sec)
        except DataError as error:
            is_foreign = isinstance(error.__cause__, soundfile.LibsndfileError) and "not audio" in str(error)
            message = str(error).replace(location, "the body")
            raise Refusal(415 if is_foreign else 422, message) from error


def _too_large(seen: str, most_bytes: int) -> Refusal:
    allowed = f"the body may have at most {most_bytes} bytes, but has {seen}"
    return Refusal(413, f"{allowed}; send FLAC or OGG, or parts, or ask for a higher --max-body-mb")


def _refuse_too_long(duration_sec: float, most_sec: float) -> None:
    if duration_sec > most_sec:
        allowed = f"the audio may last at most {most_sec:g} s, but lasts {duration_sec:.1f} s"
        raise Refusal(
            413, f"{allowed}; split it at pauses, or ask for a higher --max-sec if the model reads more"
        )


def _refuse_odd_rate(found_hz: int, rate_hz: int) -> None:
    common = math.gcd(found_hz, rate_hz)
    if found_hz // common * (rate_hz // common) > MOST_KERNEL:
        odd = f"the sampling rate of {found_hz} Hz cannot be converted to {rate_hz} Hz with a short filter"
        raise Refusal(422, f"{odd}; convert it first (sox in.wav -r {rate_hz} out.wav)")
