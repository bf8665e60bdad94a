"""Speed perturbation of data directories, as Kaldi's perturb_data_dir_speed.sh and ESPnet's recipes do it.

Ko, Peddinti, Povey, Khudanpur, Audio augmentation for speech recognition, Interspeech 2015. Recordings are
resampled, as by sox's `speed`, which changes tempo and pitch together.
"""

import logging
import multiprocessing
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torchaudio.functional import resample

from adaptkit import locks
from adaptkit.errors import ConfigError, DataError
from adaptkit.kaldi import datadir, subset
from adaptkit.kaldi.audio import audio_folder, fit_full_scale, read_audio, write_audio
from adaptkit.kaldi.datadir import DataDir, Utterance
from adaptkit.progress import counting

log = logging.getLogger(__name__)

SPEEDS = (0.9, 1.0, 1.1)
SLOWEST, FASTEST = 0.5, 2.0


def at_speed(speech: Tensor, speed: float) -> Tensor:
    """Play speech (N,) `speed` times as fast: ceil(N / speed) samples, with pitch and formants scaled too."""
    percent = round(100 * speed)
    return speech if percent == 100 else resample(speech, percent, 100)


def perturb(
    data_dir: Path,
    out_dir: Path,
    speeds: Sequence[float] = SPEEDS,
    *,
    same_speaker: bool = False,
    num_jobs: int = 1,
    rate_hz: int = 16000,
    allow_pipes: bool = False,
) -> DataDir:
    """Write a copy of every utterance at each speed to `out_dir`; the copies at 1.0 are the originals.

    A copy has the id `sp0.9-<id>`, and so have its recording and, unless `same_speaker`, its speaker. Audio
    files that are there already are kept, so that a killed run continues where it stopped.
    """
    speeds = _checked(speeds)
    data, out_dir = datadir.read(data_dir, needs_text=False), Path(out_dir)
    folder = audio_folder(out_dir, data)
    parts = [data if speed == 1 else _at(data, speed, folder, same_speaker) for speed in speeds]
    made = subset.combine([replace(part, path=out_dir, feats=None) for part in parts], path=out_dir)
    todo = [
        _Copy(location, Path(made.recordings[_prefix(speed) + name]), speed)
        for speed in speeds
        for name, location in data.recordings.items()
        if speed != 1
    ]
    with locks.hold(out_dir, parts=(folder.name,)):
        _write_all([one for one in todo if not one.file.exists()], num_jobs, rate_hz, allow_pipes)
        subset.save(made, [data])
    return made


@dataclass(frozen=True)
class _Copy:
    """A recording to be written at another speed."""

    location: str
    file: Path
    speed: float


def _checked(speeds: Sequence[float]) -> list[float]:
    wrong = [s for s in speeds if not SLOWEST <= s <= FASTEST or abs(100 * s - round(100 * s)) > 1e-6]
    if wrong or not speeds or len(set(speeds)) != len(speeds):
        given = ", ".join(f"{speed:g}" for speed in speeds) or "none"
        raise ConfigError(
            f"speeds {given}: expected different numbers from {SLOWEST:g} to {FASTEST:g} with at most two "
            "decimals, such as 0.9, 1.0 and 1.1"
        )
    return list(speeds)


def _prefix(speed: float) -> str:
    return "" if speed == 1 else f"sp{speed:g}-"


def _at(data: DataDir, speed: float, folder: Path, same_speaker: bool) -> DataDir:
    """Return a directory at another speed: ids, speakers, segments and durations; features are left out."""
    prefix = _prefix(speed)

    def change(utterance: Utterance) -> Utterance:
        speaker = utterance.speaker if same_speaker else prefix + utterance.speaker
        task = speaker if utterance.task == utterance.speaker else utterance.task
        end = None if utterance.end_sec is None else round(utterance.end_sec / speed, 3)
        return replace(
            utterance,
            utt_id=prefix + utterance.utt_id,
            speaker=speaker,
            task=task,
            recording=prefix + utterance.recording,
            start_sec=round(utterance.start_sec / speed, 3),
            end_sec=end,
        )

    durations = data.duration_sec and {
        prefix + key: round(sec / speed, 3) for key, sec in data.duration_sec.items()
    }
    return replace(
        data,
        utterances=tuple(map(change, data.utterances)),
        recordings={prefix + name: str(folder / f"{prefix}{name}.wav") for name in data.recordings},
        feats=None,
        duration_sec=durations,
    )


def _write_all(todo: Sequence[_Copy], num_jobs: int, rate_hz: int, allow_pipes: bool) -> None:
    """Write copies; several jobs are processes with one thread each."""
    write = partial(_write, rate_hz=rate_hz, allow_pipes=allow_pipes)
    with counting("speed perturbation", len(todo)) as advance:
        for _ in _mapped(write, todo, num_jobs):
            advance(1, "")


def _mapped(write: partial, todo: Sequence[_Copy], num_jobs: int) -> Iterable[None]:
    if num_jobs == 1 or len(todo) < 2:
        yield from map(write, todo)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_jobs, context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        yield from pool.map(write, todo, chunksize=16)


def _write(one: _Copy, *, rate_hz: int, allow_pipes: bool) -> None:
    try:
        speech = read_audio(one.location, rate_hz=rate_hz, allow_pipes=allow_pipes)
    except DataError as error:
        raise DataError(f"{one.file.stem}: {error}") from error
    write_audio(one.file, fit_full_scale(at_speed(speech, one.speed)), rate_hz=rate_hz)
