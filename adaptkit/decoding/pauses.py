"""Cut long recordings at pauses found by Silero VAD, whose package contains its weights.

Nothing is left out: the detector only determines where to cut. It was not trained on unusual voices, and may
mistake their speech for silence.

Silero Team, Silero VAD, https://github.com/snakers4/silero-vad, 2024
"""

import functools
import logging
import warnings
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from adaptkit.errors import AdaptkitError, DataError
from adaptkit.kaldi.audio import read_segments
from adaptkit.kaldi.recording import Recording
from adaptkit.progress import counting

_RATE_HZ = 16000
_WINDOW = 512  # samples per decision of the detector
_WINDOW_SEC = _WINDOW / _RATE_HZ
_BLOCK_SEC = 1875 * _WINDOW_SEC  # part of a recording in memory at a time: a minute
_SPEECH = 0.5  # probability above which a window is speech
_LOG = logging.getLogger(__name__)


def cut(recording: Recording, most_sec: float, *, name: str | None = None) -> list[tuple[float, float]]:
    """Return the parts of a recording, none longer than `most_sec`, as starts and ends in seconds.

    Messages call it `name`, by default its location. Without the detector's package, a recording that must be
    cut is an AdaptkitError.
    """
    name, length_sec = name or recording.location, recording.duration_sec
    if length_sec <= most_sec:
        return [(0.0, length_sec)]
    if find_spec("silero_vad") is None:
        raise AdaptkitError(
            f"{name}: lasts {length_sec:.1f} s; recordings of more than {most_sec:g} s "
            "are cut at pauses by silero-vad, which is not installed; pip install 'adaptkit[long]', or raise "
            "--max-sec if the model reads as much at once"
        )
    chances = list(_detect(recording))
    places, num_within = place_cuts(chances, length_sec, most_sec)
    if num_within:
        _LOG.warning(
            "%s: %d of %d cuts are within speech, which goes on for more than %g s; words there may be wrong",
            *(name, num_within, len(places), most_sec / 2),
        )
    return list(zip([0.0, *places], [*places, length_sec], strict=True))


def place_cuts(chances: Sequence[float], length_sec: float, most_sec: float) -> tuple[list[float], int]:
    """Return where to cut in seconds, and how many cuts are within speech.

    `chances` are the probabilities of speech in windows of 32 ms. Every part lasts from half of `most_sec` to
    `most_sec`, except the last; it ends in the middle of the longest pause there, or where speech is least
    likely.
    """
    places, num_within, start = [], 0, 0
    most = int(most_sec / _WINDOW_SEC)
    while length_sec - start * _WINDOW_SEC > most_sec:
        first = start + max(1, most // 2)
        place, is_pause = _find_pause(chances[first : start + most + 1])
        start = min(first + place, start + most)
        places.append(start * _WINDOW_SEC)
        num_within += not is_pause
    return places, num_within


def _find_pause(chances: Sequence[float]) -> tuple[int, bool]:
    """Return the middle of the longest pause, the last of equal ones, and whether there is one."""
    runs, place = [], 0
    for is_speech, own in groupby(chances, key=lambda chance: chance >= _SPEECH):
        length = len(list(own))
        if not is_speech:
            runs.append((length, place + length // 2))
        place += length
    if runs:
        return max(runs)[1], True
    return min(range(len(chances)), key=lambda index: chances[index]), False


def _detect(recording: Recording) -> Iterator[float]:
    """Yield the probability of speech in every window, reading a minute at a time."""
    detector, length_sec = _load_detector(), recording.duration_sec
    detector.reset_states()
    starts = [index * _BLOCK_SEC for index in range(int(length_sec / _BLOCK_SEC) + 1)]
    spans = [(start, min(start + _BLOCK_SEC, length_sec)) for start in starts if start < length_sec]
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the network is tiny
    try:
        with counting("minutes searched for pauses", len(spans)) as advance, torch.no_grad():
            for samples in read_segments(recording.location, spans, rate_hz=_RATE_HZ):
                if isinstance(samples, DataError):
                    raise samples
                yield from (float(detector(window, _RATE_HZ)) for window in _windows(samples))
                advance(1, "")
    finally:
        torch.set_num_threads(num_threads)


def _windows(samples: Tensor) -> Sequence[Tensor]:
    missing = -len(samples) % _WINDOW
    return torch.nn.functional.pad(samples, (0, missing)).split(_WINDOW)


@functools.cache
def _load_detector() -> Any:
    num_threads = torch.get_num_threads()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of torch.jit.load, which the package uses
        import silero_vad  # sets the number of threads to one

        detector = silero_vad.load_silero_vad()
    torch.set_num_threads(num_threads)
    return detector
