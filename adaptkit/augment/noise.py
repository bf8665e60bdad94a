"""Noise and reverberation for multistyle training (Kim et al., Interspeech 2017).

Kim, Misra, Chin, Hughes, Narayanan, Sainath and Bacchiani, Generation of large-scale simulated utterances in
virtual rooms to train deep-neural networks for far-field speech recognition in Google Home, Interspeech 2017:
signal-to-noise ratios of 0 to 30 dB. Their uniform distribution, and the share and reverberation times of
rooms, are ours. The noise is added as recorded, not convolved with the room response.
"""

import functools
import logging
import math
from dataclasses import dataclass
from random import Random
from typing import Annotated

import numpy as np
import torch
from pydantic import AfterValidator, Field
from torch import Tensor

from adaptkit.augment.recordings import find_recordings
from adaptkit.augment.rooms import MOST_ROOMS, Response, make_response
from adaptkit.config import Config, FilePath, PositiveInt, Share
from adaptkit.errors import DataError
from adaptkit.kaldi.audio import Recording, read_audio

_LOG = logging.getLogger(__name__)
FRAME_SEC = 0.02  # for the power used to detect speech
MARGIN = 10**1.59  # 15.9 dB between the mean power of the speech and that of its quietest frame; ITU-T P.56
TRIES = 10  # random positions in a recording, which may be silent in places
QUIET = 0.01  # 20 dB; a noise segment quieter by this under the speech has its sound in the pauses
STEP = 2.0**-15  # quantisation step of 16 bits; silence has no more power
RESPONSE_SEC = 4.0  # length used of a recorded room response; later reflections are ignored
RECORDED_RESPONSES = 128  # kept in memory, 32 MB at 16 kHz


def _rising(limits: tuple[float, float]) -> tuple[float, float]:
    if limits[0] > limits[1]:
        raise ValueError(f"the lower limit {limits[0]:g} is above the upper one {limits[1]:g}")
    return limits


Decibels = Annotated[float, Field(strict=True, ge=-100, le=100)]
ReverberationTime = Annotated[float, Field(strict=True, ge=0.1, le=1.0)]  # s


class Noise(Config):
    """How speech is made noisy: every noisy utterance gets noise, some of them after reverberation."""

    noises: tuple[FilePath, ...] = Field(
        min_length=1, description="folders of noise recordings, or Kaldi lists (`name location`)"
    )
    snr_db: Annotated[tuple[Decibels, Decibels], AfterValidator(_rising)] = Field(
        (0, 30), description="lowest and highest signal-to-noise ratio, over the speech without pauses"
    )
    rooms: tuple[FilePath, ...] = Field(
        (), description="folders or lists of room impulse responses; if empty, rooms are simulated"
    )
    room_share: Share = Field(0.5, description="probability of a room for a noisy utterance")
    rt60_sec: Annotated[tuple[ReverberationTime, ReverberationTime], AfterValidator(_rising)] = Field(
        (0.1, 0.6), description="shortest and longest reverberation time of simulated rooms"
    )
    num_rooms: Annotated[PositiveInt, Field(le=MOST_ROOMS)] = Field(
        100, description="number of simulated rooms"
    )


@dataclass(frozen=True)
class Perturbed:
    """Noisy speech, and the noise and room it was made with."""

    speech: Tensor  # (N,); may exceed full scale 1, where a 16-bit file clips
    noise: str  # location of the recording; empty for digital silence, which gets no noise
    snr_db: float
    room: str  # location of the response, or `generated/<number>`; empty for none


class NoiseBank:
    """The noise and room recordings of a policy; only their headers are read on construction."""

    def __init__(self, options: Noise, rate_hz: int):
        self.options, self.rate_hz = options, rate_hz
        self.noises = find_recordings(options.noises, "noises")
        self.rooms = find_recordings(options.rooms, "rooms") if options.room_share else ()

    def perturb(self, speech: Tensor, key: int) -> Perturbed:
        """Make speech (N,) noisy; the result depends only on the speech and `key`.

        With probability `room_share` the speech is convolved with a room response, at the same level. The SNR
        refers to the active part of the speech, as found before reverberation. Digital silence has no SNR and
        stays unchanged.
        """
        rng, clean = Random(key % 2**64), speech.double().numpy()  # Random(-1) would be Random(1)
        active = active_samples(speech, self.rate_hz).numpy()
        power = _power(clean, active)
        if power == 0:
            return Perturbed(speech, "", math.inf, "")
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

    def list_contents(self) -> str:
        """Return the options, and each recording with its rate and length, to detect changes."""
        recordings = (f"{r.location} {r.rate_hz} {r.num_samples}" for r in self.noises + self.rooms)
        return "\n".join([f"{self.options.model_dump_json()} {self.rate_hz}", *recordings])

    def _draw_room(self, rng: Random) -> tuple[str, Response]:
        if self.rooms:
            recording = rng.choice(self.rooms)
            return recording.location, _read_response(recording, self.rate_hz)
        number = rng.randrange(self.options.num_rooms)
        return f"generated/{number}", make_response(number, self.options.rt60_sec, self.rate_hz)

    def _draw_noise(self, active: np.ndarray, rng: Random) -> tuple[Recording, np.ndarray]:
        """Draw a recording that is not silent, and a segment (N,) of it for speech (N,)."""
        for _ in range(TRIES):
            recording = rng.choice(self.noises)
            noise = self._draw_segment(recording, active, rng)
            if _power(noise, active) > 0:
                return recording, noise
            _warn_of_silence(recording.location)
        raise DataError(f"{recording.location}: nothing but digital silence; drop it from the noises")

    def _draw_segment(self, recording: Recording, active: np.ndarray, rng: Random) -> np.ndarray:
        """Read a noise segment (N,) that is audible during the active part of speech (N,)."""
        for _ in range(TRIES):
            noise = _read_somewhere(recording, self.rate_hz, len(active), rng)
            if _power(noise, active) > max(STEP**2, QUIET * _power(noise)):
                return noise
        whole = _read(recording, self.rate_hz)
        place = np.abs(whole).argmax() - rng.choice(np.flatnonzero(active))  # loudest sample into speech
        return _turn(whole, place, len(active))


def active_samples(speech: Tensor, rate_hz: int) -> Tensor:
    """Return the active part (N,) of speech (N,): true in speech, false in the pauses around and within it.

    A simplification of ITU-T P.56 (2011), method B, on frames of 20 ms, without its envelope and hangover:
    the largest number of loudest frames whose mean power is at most 15.9 dB above the quietest of them.
    Steady noise is active throughout, and so are zeros.
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
    """Warn once per silent recording that another one is drawn in its place."""
    _LOG.warning("%s: nothing but digital silence; other noises are used, drop it from the list", location)


def _power(samples: np.ndarray, active: np.ndarray | slice = slice(None)) -> float:
    """Return the mean square; numpy's sums, unlike torch's, are the same with any number of threads."""
    chosen = samples[active]
    return float(np.square(chosen).mean()) if len(chosen) else 0.0


def _reverberate(speech: np.ndarray, response: Response) -> np.ndarray:
    """Convolve speech (N,) with a room response, aligned in time by the direct path."""
    size = 1 << (len(speech) + len(response.samples) - 2).bit_length()
    product = np.fft.rfft(speech, size) * np.fft.rfft(response.samples, size)
    return np.fft.irfft(product, size)[response.direct : response.direct + len(speech)]


@functools.lru_cache(maxsize=RECORDED_RESPONSES)
def _read_response(recording: Recording, rate_hz: int) -> Response:
    """Read the start of a recorded response; its loudest sample is taken as the direct path."""
    end = min(recording.num_samples, round(RESPONSE_SEC * recording.rate_hz))
    samples = _read(recording, rate_hz, 0, end)
    if not samples.any():
        raise DataError(f"{recording.location}: a room response of zeros; drop it from the rooms")
    return Response(samples, int(np.abs(samples).argmax()))


def _read_somewhere(recording: Recording, rate_hz: int, num_samples: int, rng: Random) -> np.ndarray:
    """Read noise (N,) from a random position; a recording that is too short is repeated."""
    needed = -(-num_samples * recording.rate_hz // rate_hz)  # at the recording's rate, rounded up
    if recording.num_samples >= needed:
        first = rng.randint(0, recording.num_samples - needed)
        return _read(recording, rate_hz, first, first + needed)[:num_samples]
    whole = _read(recording, rate_hz)
    return _turn(whole, rng.randrange(len(whole)), num_samples)


def _turn(samples: np.ndarray, first: int, num_samples: int) -> np.ndarray:
    """Return samples from `first` on, cyclically."""
    return samples[(first + np.arange(num_samples)) % len(samples)]


def _read(recording: Recording, rate_hz: int, first: int = 0, last: int | None = None) -> np.ndarray:
    """Read samples `first` to `last` of a recording, counted at its own rate, resampled to `rate_hz`."""
    start_sec = first / recording.rate_hz
    end_sec = None if last is None else last / recording.rate_hz
    samples = read_audio(recording.location, rate_hz=rate_hz, start_sec=start_sec, end_sec=end_sec)
    return samples.double().numpy()
