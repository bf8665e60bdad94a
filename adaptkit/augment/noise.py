"""Noise and rooms on speech, as multistyle training adds them (Kim et al., Interspeech 2017).

Kim, Misra, Chin, Hughes, Narayanan, Sainath and Bacchiani, Generation of large-scale simulated utterances in
virtual rooms to train deep-neural networks for far-field speech recognition in Google Home, Interspeech 2017:
signal-to-noise ratios of 0 to 30 dB. That they are uniform, and the share and times of the rooms, are ours.
The noise is added as it was recorded, not sent through the room.
"""

import functools
import logging
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Annotated

import numpy as np
import torch
from pydantic import AfterValidator, Field, PositiveInt
from torch import Tensor

from adaptkit.augment.recordings import find_recordings
from adaptkit.augment.rooms import MOST_ROOMS, Response, make_response
from adaptkit.config import Config
from adaptkit.errors import DataError
from adaptkit.kaldi.audio import Recording, read_audio

_LOG = logging.getLogger(__name__)
FRAME_SEC = 0.02  # over which power is taken to find the speech
MARGIN = 10**1.59  # 15.9 dB, between the mean power of the speech and that of its quietest frame; ITU-T P.56
TRIES = 10  # places of a recording that may turn out silent
QUIET = 0.01  # 20 dB; a segment that is this much quieter where the speech is has its sound in the pauses
STEP = 2.0**-15  # of 16-bit samples; what has no more power is silence
RESPONSE_SEC = 4.0  # of a recorded room response; later reflections are not used
RECORDED_RESPONSES = 128  # kept in memory, 32 MB at 16 kHz


def _rising(limits: tuple[float, float]) -> tuple[float, float]:
    if limits[0] > limits[1]:
        raise ValueError(f"the lower limit {limits[0]:g} is above the upper one {limits[1]:g}")
    return limits


Decibels = Annotated[float, Field(ge=-100, le=100)]
ReverberationTime = Annotated[float, Field(ge=0.1, le=1.0)]  # s


class Noise(Config):
    """How speech is made noisy; every noisy utterance gets noise, some of them a room before."""

    noises: tuple[Path, ...] = Field(
        min_length=1, description="folders of noise recordings, or Kaldi lists of them (`name location`)"
    )
    snr_db: Annotated[tuple[Decibels, Decibels], AfterValidator(_rising)] = Field(
        (0, 30), description="lowest and highest signal-to-noise ratio, over the speech without its pauses"
    )
    rooms: tuple[Path, ...] = Field(
        (), description="folders or lists of recorded room responses; none: rooms are generated"
    )
    room_share: float = Field(0.5, ge=0, le=1, description="probability that a noisy utterance is in a room")
    rt60_sec: Annotated[tuple[ReverberationTime, ReverberationTime], AfterValidator(_rising)] = Field(
        (0.1, 0.6), description="shortest and longest reverberation time of generated rooms"
    )
    num_rooms: PositiveInt = Field(100, le=MOST_ROOMS, description="how many rooms are generated")


@dataclass(frozen=True)
class Perturbed:
    """Noisy speech, and where it comes from."""

    speech: Tensor  # (N,); may exceed full scale 1, which a 16-bit file would clip
    noise: str  # location of the recording
    snr_db: float
    room: str  # location of the response, or `generated/<number>`; empty for none


class NoiseBank:
    """The recordings that a policy names, ready to make speech noisy; at the start only headers are read."""

    def __init__(self, options: Noise, rate_hz: int):
        self.options, self.rate_hz = options, rate_hz
        self.noises = find_recordings(options.noises, "noises")
        self.rooms = find_recordings(options.rooms, "rooms") if options.room_share else ()

    def perturb(self, speech: Tensor, key: int) -> Perturbed:
        """Make speech (N,) noisy; everything is drawn from `key`, whatever was asked before.

        With probability `room_share` the speech is heard in a room, at the same level. The ratio of speech to
        noise is the one drawn, over the active part of the speech as it was without the room.
        """
        rng, clean = Random(key % 2**64), speech.double().numpy()  # Random(-1) would be Random(1)
        active = active_samples(speech, self.rate_hz).numpy()
        power = _power(clean, active)
        if not power > 0:
            raise DataError(
                f"{len(speech)} samples of speech are all zero and have no level; drop the utterance"
            )
        snr_db = rng.uniform(*self.options.snr_db)
        room, heard = "", clean
        if rng.random() < self.options.room_share:
            room, response = self._draw_room(rng)
            heard = _reverberate(clean, response)
            heard *= np.sqrt(power / _power(heard, active))
        recording, noise = self._draw_noise(active, rng)
        gain = np.sqrt(power / _power(noise, active) / 10 ** (snr_db / 10))
        noisy = torch.from_numpy(heard + gain * noise).to(speech)
        return Perturbed(noisy, recording.location, snr_db, room)

    def describe(self) -> str:
        """Give the options, and each recording with its rate and samples: another list gives another text."""
        recordings = (f"{r.location} {r.rate_hz} {r.num_samples}" for r in self.noises + self.rooms)
        return "\n".join([f"{self.options.model_dump_json()} {self.rate_hz}", *recordings])

    def _draw_room(self, rng: Random) -> tuple[str, Response]:
        if self.rooms:
            recording = rng.choice(self.rooms)
            return recording.location, _read_response(recording, self.rate_hz)
        number = rng.randrange(self.options.num_rooms)
        return f"generated/{number}", make_response(number, self.options.rt60_sec, self.rate_hz)

    def _draw_noise(self, active: np.ndarray, rng: Random) -> tuple[Recording, np.ndarray]:
        """Draw a recording that is no silence, and noise (N,) of it for speech (N,)."""
        for _ in range(TRIES):
            recording = rng.choice(self.noises)
            noise = self._draw_segment(recording, active, rng)
            if _power(noise, active) > 0:
                return recording, noise
            _warn_of_silence(recording.location)
        raise DataError(f"{recording.location}: nothing but digital silence; drop it from the noises")

    def _draw_segment(self, recording: Recording, active: np.ndarray, rng: Random) -> np.ndarray:
        """Read noise (N,) for speech (N,), from a place where it can be heard with the active part."""
        for _ in range(TRIES):
            noise = _read_somewhere(recording, self.rate_hz, len(active), rng)
            if _power(noise, active) > max(STEP**2, QUIET * _power(noise)):
                return noise
        whole = _read(recording, self.rate_hz)
        place = np.abs(whole).argmax() - rng.choice(np.flatnonzero(active))  # the loudest sample into speech
        return _turn(whole, place, len(active))


def active_samples(speech: Tensor, rate_hz: int) -> Tensor:
    """Find the active part (N,) of speech (N,): true in speech, false in the pauses around and within it.

    A simplification of ITU-T P.56 (2011), method B, on frames of 20 ms, without its envelope and hangover: as
    many of the loudest frames as there can be with their mean power at most 15.9 dB above the quietest of
    them. Steady noise is active throughout, and so are zeros.
    """
    if not len(speech):
        return torch.zeros(0, dtype=torch.bool)
    size = round(rate_hz * FRAME_SEC)
    starts = np.arange(0, len(speech), size)
    sizes = np.diff(starts, append=len(speech))  # the last may be shorter
    powers = np.add.reduceat(np.square(speech.double().numpy()), starts) / sizes
    loudest = np.sort(powers)[::-1]
    means = np.cumsum(loudest) / np.arange(1, len(loudest) + 1)
    quietest = loudest[np.flatnonzero(means <= MARGIN * loudest)[-1]]
    return torch.from_numpy(np.repeat(powers >= quietest, sizes))


@functools.cache
def _warn_of_silence(location: str) -> None:
    """Say once of a recording that another is drawn in its place."""
    _LOG.warning("%s: nothing but digital silence; other noises stand in, drop it from the list", location)


def _power(samples: np.ndarray, active: np.ndarray | slice = slice(None)) -> float:
    """Give the mean square; numpy's sums, unlike torch's, are the same with any number of threads."""
    chosen = samples[active]
    return float(np.square(chosen).mean()) if len(chosen) else 0.0


def _reverberate(speech: np.ndarray, response: Response) -> np.ndarray:
    """Convolve speech (N,) with a response, whose direct path leaves it where it is in time."""
    size = 1 << (len(speech) + len(response.samples) - 2).bit_length()
    product = np.fft.rfft(speech, size) * np.fft.rfft(response.samples, size)
    return np.fft.irfft(product, size)[response.direct : response.direct + len(speech)]


@functools.lru_cache(maxsize=RECORDED_RESPONSES)
def _read_response(recording: Recording, rate_hz: int) -> Response:
    """Read the start of a recorded response; its loudest sample is taken for the direct path."""
    end = min(recording.num_samples, round(RESPONSE_SEC * recording.rate_hz))
    samples = _read(recording, rate_hz, 0, end)
    if not samples.any():
        raise DataError(f"{recording.location}: a room response of zeros; drop it from the rooms")
    return Response(samples, int(np.abs(samples).argmax()))


def _read_somewhere(recording: Recording, rate_hz: int, num_samples: int, rng: Random) -> np.ndarray:
    """Read noise (N,) from a random place; a recording that is too short goes on from its start."""
    needed = -(-num_samples * recording.rate_hz // rate_hz)  # at its own rate, rounded up
    if recording.num_samples >= needed:
        first = rng.randint(0, recording.num_samples - needed)
        return _read(recording, rate_hz, first, first + needed)[:num_samples]
    whole = _read(recording, rate_hz)
    return _turn(whole, rng.randrange(len(whole)), num_samples)


def _turn(samples: np.ndarray, first: int, num_samples: int) -> np.ndarray:
    """Take samples from `first` on, round and round."""
    return samples[(first + np.arange(num_samples)) % len(samples)]


def _read(recording: Recording, rate_hz: int, first: int = 0, last: int | None = None) -> np.ndarray:
    """Read samples of a recording, counted at its own rate, as samples at `rate_hz`."""
    start_sec = first / recording.rate_hz
    end_sec = None if last is None else last / recording.rate_hz
    samples = read_audio(recording.location, rate_hz=rate_hz, start_sec=start_sec, end_sec=end_sec)
    return samples.double().numpy()
