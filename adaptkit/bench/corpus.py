"""What a large corpus costs before training: reading, checking and measuring it, and planning an epoch.

The data are made here: utterances of 1 to 2.9 s with a word per second or more, 100 per speaker. They
are either segments, 100 from each recording of 5 minutes, as in corpora of long recordings, or files of
their own. In both cases many names are hard links to a few files of noise, so that a million utterances
fit on a disk: every name is opened and decoded, but what is read comes from memory. A cold disk or a
network drive adds to it.
"""

import multiprocessing
import os
import random
import re
import resource
import time
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import soundfile

from adaptkit.errors import AdaptkitError
from adaptkit.files import write_text
from adaptkit.kaldi import datadir
from adaptkit.kaldi.scan import Checks
from adaptkit.kaldi.summary import summarise
from adaptkit.kaldi.validate import find_problems

RATE_HZ = 16000
WORDS = ("ZERO", "ONE", "TWO", "THREE", "FOUR", "FIVE", "SIX", "SEVEN", "EIGHT", "NINE")
_PER_RECORDING = 100  # segments, and utterances of a speaker
_EVERY_SEC = 3.0  # a segment begins
_NUM_SOURCES = 32  # files that the others are links to
_MOST_LINKS = 30_000  # of a file; ext4 allows 65,000

Made = TypeVar("Made")


@dataclass(frozen=True)
class CorpusCost:
    """What a step took, in a process of its own."""

    name: str
    seconds: float
    cpu_sec: float  # of all its processes
    peak_mb: float  # of its first process


def make_corpus(folder: Path, num_utterances: int, *, has_segments: bool) -> Path:
    """Write a data directory of many utterances, as the module describes it."""
    generator, data = random.Random(0), folder / "data"
    ids = [f"spk{n // _PER_RECORDING:05d}-utt{n:07d}" for n in range(num_utterances)]
    seconds = [generator.uniform(1.0, 2.9) for _ in ids]
    write = _write_segments if has_segments else _write_files
    write(folder, data, ids, seconds)
    words = (" ".join(generator.choices(WORDS, k=1 + int(length))) for length in seconds)
    _write(data / "text", (f"{utt_id} {text}" for utt_id, text in zip(ids, words, strict=True)))
    _write(data / "utt2spk", (f"{utt_id} {utt_id[:8]}" for utt_id in ids))
    speakers = (ids[start : start + _PER_RECORDING] for start in range(0, num_utterances, _PER_RECORDING))
    _write(data / "spk2utt", (f"{own[0][:8]} {' '.join(own)}" for own in speakers))
    return data


def measure_corpus(data: Path, *, num_jobs: int) -> Iterator[CorpusCost]:
    """Yield the cost of each step on a data directory, each in a new process."""
    yield in_new_process(timed, "read", _read, data)
    yield in_new_process(timed, "info", _summarise, data, num_jobs)
    yield in_new_process(timed, "validate --no-audio", _validate, data, num_jobs, False)
    yield in_new_process(timed, "validate", _validate, data, num_jobs, True)


def in_new_process(call: Callable[..., Made], *words: object) -> Made:
    """Return the result of a call in a process of its own, so that only the call's memory is measured."""
    try:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            return pool.submit(call, *words).result()
    except BrokenExecutor as error:
        remedy = "measure fewer utterances (--utterances) or free some memory"
        raise AdaptkitError(f"the measured process was killed; {remedy}") from error


def timed(name: str, call: Callable[..., int], *words: object) -> CorpusCost:
    """Return the cost of a call in this process."""
    started, cpu_sec = time.perf_counter(), _cpu_sec()
    call(*words)
    return CorpusCost(name, time.perf_counter() - started, _cpu_sec() - cpu_sec, _peak_mb())


def _write_segments(folder: Path, data: Path, ids: list[str], seconds: list[float]) -> None:
    names = [f"call{number:06d}" for number in range(-(-len(ids) // _PER_RECORDING))]
    _write_recordings(folder, data, names, [_EVERY_SEC * _PER_RECORDING] * 4)
    spans = ((n % _PER_RECORDING * _EVERY_SEC, length) for n, length in enumerate(seconds))
    _write(
        data / "segments",
        (
            f"{utt_id} {names[n // _PER_RECORDING]} {start:.3f} {start + length:.3f}"
            for n, (utt_id, (start, length)) in enumerate(zip(ids, spans, strict=True))
        ),
    )


def _write_files(folder: Path, data: Path, ids: list[str], seconds: list[float]) -> None:
    num_sources = max(_NUM_SOURCES, -(-len(ids) // _MOST_LINKS))
    lengths = [1.0 + 1.9 * number / num_sources for number in range(num_sources)]
    _write_recordings(folder, data, ids, lengths)
    seconds[:] = [lengths[number % num_sources] for number in range(len(ids))]


def _write_recordings(folder: Path, data: Path, names: list[str], lengths_sec: list[float]) -> None:
    """Write some recordings of noise, and link to them in turn under many names."""
    generator, sources = np.random.default_rng(0), []
    for number, length in enumerate(lengths_sec):
        sources.append(folder / f"source{number}.wav")
        noise = 0.05 * generator.standard_normal(round(length * RATE_HZ), dtype=np.float32)
        soundfile.write(sources[-1], noise, RATE_HZ, subtype="PCM_16")
    places = [folder / "audio" / f"{number // 1000:04d}" / f"{name}.wav" for number, name in enumerate(names)]
    for number, place in enumerate(places):
        if number % 1000 == 0:
            place.parent.mkdir(parents=True)
        os.link(sources[number % len(sources)], place)
    _write(data / "wav.scp", (f"{name} {place}" for name, place in zip(names, places, strict=True)))


def _write(path: Path, lines: Iterator[str]) -> None:
    write_text(path, "".join(f"{line}\n" for line in lines))


def _read(data: Path) -> int:
    return len(datadir.read(data).utterances)


def _summarise(data: Path, num_jobs: int) -> int:
    return summarise(datadir.read(data), num_jobs=num_jobs).num_utterances


def _validate(data: Path, num_jobs: int, check_audio: bool) -> int:
    return len(find_problems(data, Checks(check_audio=check_audio, num_jobs=num_jobs)))


def _cpu_sec() -> float:
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)


def _peak_mb() -> float:
    """Return the peak memory of this process; ru_maxrss would begin with its parent's."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s*(\d+) kB", status)[1]) * 1024 / 1e6
