"""Speed perturbation of data directories, as in Kaldi's perturb_data_dir_speed.sh and ESPnet's recipes.

Ko, Peddinti, Povey, Khudanpur, Audio augmentation for speech recognition, Interspeech 2015. Recordings are
resampled as by sox's `speed`, which changes tempo and pitch together.
"""

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
from adaptkit.kaldi import copied, datadir, subset
from adaptkit.kaldi.audio import audio_file, audio_folder, fit_full_scale, read_audio, write_audio
from adaptkit.kaldi.copied import Copied, Wanted
from adaptkit.kaldi.datadir import DataDir, Utterance
from adaptkit.kaldi.probing import naming_killed
from adaptkit.kaldi.recording import stamp_recording

SPEEDS = (0.9, 1.0, 1.1)
SLOWEST, FASTEST = 0.5, 2.0


def at_speed(speech: Tensor, speed: float) -> Tensor:
    """Play speech (N,) `speed` times as fast: ceil(N / speed) samples, with pitch and formants scaled too."""
    percent = round(100 * speed)
    return speech if percent == 100 else resample(speech, percent, 100)


def check_speeds(speeds: Sequence[float]) -> tuple[float, ...]:
    """Return speeds; speeds out of range or repeated are a ValueError."""
    wrong = [s for s in speeds if not SLOWEST <= s <= FASTEST or abs(100 * s - round(100 * s)) > 1e-6]
    if wrong or not speeds or len(set(speeds)) != len(speeds):
        given = ", ".join(f"{speed:g}" for speed in speeds) or "none"
        raise ValueError(
            f"speeds {given}: expected different numbers from {SLOWEST:g} to {FASTEST:g} with at most two "
            "decimals, such as 0.9, 1.0 and 1.1"
        )
    return tuple(speeds)


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

    A copy has the id `sp0.9-<id>`; its recording and, unless `same_speaker`, its speaker have the same
    prefix, but its group is that of the original. Audio files made from the same recordings by an earlier run
    are kept.
    """
    try:
        check_speeds(speeds)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    data, out_dir = datadir.read(data_dir, needs_text=False), Path(out_dir)
    folder = audio_folder(out_dir, data)
    parts = [data if speed == 1 else _at(data, speed, folder, same_speaker) for speed in speeds]
    made = subset.combine([replace(part, path=out_dir, feats=None) for part in parts], path=out_dir)
    plan = {
        prefix + name: _Copy(prefix + name, location, Path(made.recordings[prefix + name]), speed, rate_hz)
        for prefix, speed in ((_prefix(speed), speed) for speed in speeds if speed != 1)
        for name, location in data.recordings.items()
    }
    wanted = {name: one.wanted for name, one in plan.items()}
    with locks.hold(out_dir, parts=(folder.name,)):
        copied.make_missing(
            wanted,
            out_dir,
            Copied,
            lambda names: _write_all([plan[name] for name in names], num_jobs, allow_pipes),
            what="speed perturbation",
        )
        subset.save(made, [data])
    return made


@dataclass(frozen=True)
class _Copy:
    """A recording to be written at another speed."""

    name: str
    location: str
    file: Path
    speed: float
    rate_hz: int

    @property
    def wanted(self) -> Wanted:
        """The audio file, and a digest of everything that it depends on."""
        made_of = [self.location, self.speed, self.rate_hz, *stamp_recording(self.location)]
        return Wanted(self.file, copied.digest(made_of))


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
        recordings={prefix + name: str(audio_file(folder, prefix + name)) for name in data.recordings},
        feats=None,
        duration_sec=durations,
    )


def _write_all(todo: Sequence[_Copy], num_jobs: int, allow_pipes: bool) -> Iterable[Copied]:
    """Write copies; several jobs are processes with one thread each."""
    write = partial(_write, allow_pipes=allow_pipes)
    if num_jobs == 1 or len(todo) < 2:
        yield from map(write, todo)
        return
    context = multiprocessing.get_context("spawn")
    with (
        naming_killed("speed perturbation"),
        ProcessPoolExecutor(num_jobs, context, initializer=torch.set_num_threads, initargs=(1,)) as pool,
    ):
        yield from pool.map(write, todo, chunksize=16)


def _write(one: _Copy, *, allow_pipes: bool) -> Copied:
    made_of = one.wanted.made_of
    try:
        speech = read_audio(one.location, rate_hz=one.rate_hz, allow_pipes=allow_pipes)
    except DataError as error:
        raise DataError(f"{one.name}: {error}") from error
    write_audio(one.file, fit_full_scale(at_speed(speech, one.speed)), rate_hz=one.rate_hz)
    return Copied(one.name, made_of, one.file.stat().st_size)
