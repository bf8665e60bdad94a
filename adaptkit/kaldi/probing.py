"""Read the headers of all recordings of a corpus once each, in several threads or processes."""

import multiprocessing
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TypeVar

import numpy as np

from adaptkit.errors import AdaptkitError, DataError
from adaptkit.kaldi.recording import is_command, probe
from adaptkit.progress import counting

NUM_THREADS = 8  # that open recordings; a network drive takes milliseconds for each
WORTH_SEC = 2.0  # of processor time from which to start processes, which takes half a second
SAMPLE_SEC = 0.2  # of processor time after which the rest can be estimated
_MOST_SAMPLE_SEC = 0.5  # of time; files may be slow
_CHUNK = 250  # recordings that a job opens at a time

Item, Made = TypeVar("Item"), TypeVar("Made")


@dataclass(frozen=True)
class Headers:
    """The headers of recordings (R,) in their order; 0 for an error or a command that was not run."""

    rates_hz: np.ndarray
    num_samples: np.ndarray  # of each channel
    num_channels: np.ndarray
    errors: Mapping[int, DataError]  # by the place of the recording

    @property
    def durations_sec(self) -> np.ndarray:
        """The lengths in seconds; NaN where unknown."""
        with np.errstate(invalid="ignore"):
            return self.num_samples / self.rates_hz


def read_headers(locations: Iterable[str], *, allow_pipes: bool = False, num_jobs: int = 1) -> Headers:
    """Read the header of each recording; commands are run only if allowed.

    Jobs are processes, since most of the time is spent in Python, with threads that wait for files.
    """
    locations = list(locations)
    read = partial(_read_some, allow_pipes=allow_pipes)
    figures, errors = [], {}
    for found, faults in map_in_jobs(read, locations, num_jobs=num_jobs, what="headers"):
        errors |= {len(figures) * _CHUNK + place: fault for place, fault in faults.items()}
        figures.append(found)
    columns = np.concatenate([np.zeros((0, 3), np.int64), *figures]).T
    return Headers(*columns, errors)


def map_in_jobs(
    call: Callable[[Sequence[Item]], Made],
    items: Sequence[Item],
    *,
    num_jobs: int,
    what: str,
    size: int | None = None,
) -> Iterator[Made]:
    """Yield the results of `call` on the items, `size` at a time and in their order, with progress.

    With several jobs, some are made here first: if the others would take much processor time, they are left
    to processes, otherwise to threads. A bounded number of chunks is under way at a time.
    """
    size = size or _CHUNK
    chunks = (items[start : start + size] for start in range(0, len(items), size))
    clock, left_sec, num_made = _Clock(), 0.0, 0
    with counting(what, len(items)) as advance:
        while num_jobs > 1 and num_made < len(items) and not clock.has_sampled():
            chunk = next(chunks)
            with clock.running():
                made = call(chunk)
            num_made += len(chunk)
            left_sec = clock.cpu_sec * (len(items) / num_made - 1)
            advance(len(chunk), "")
            yield made
        with _jobs(num_jobs, left_sec) as pool:
            waiting = deque(
                (len(chunk), pool.submit(call, chunk))
                for chunk in islice(chunks, 4 * max(num_jobs, NUM_THREADS))
            )
            while waiting:
                count, running = waiting.popleft()
                with naming_killed(what):
                    made = running.result()
                waiting.extend((len(chunk), pool.submit(call, chunk)) for chunk in islice(chunks, 1))
                advance(count, "")
                yield made


@dataclass
class _Clock:
    """The time that some work took in this thread, in all and of the processor."""

    sec: float = 0.0
    cpu_sec: float = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Add the time of the block."""
        started_sec, cpu_sec = time.perf_counter(), time.thread_time()
        yield
        self.sec += time.perf_counter() - started_sec
        self.cpu_sec += time.thread_time() - cpu_sec

    def has_sampled(self) -> bool:
        """Whether it was long enough for an estimate."""
        return self.cpu_sec >= SAMPLE_SEC or self.sec >= _MOST_SAMPLE_SEC


@contextmanager
def naming_killed(what: str) -> Iterator[None]:
    """Turn the error of processes, one of which was killed, into a message that names their work."""
    try:
        yield
    except BrokenExecutor as error:
        why = "a process was killed, perhaps because memory ran out"
        raise AdaptkitError(f"{what}: {why}; run the same command with fewer jobs (--nj)") from error


@contextmanager
def _jobs(num_jobs: int, left_sec: float) -> Iterator[Executor]:
    if left_sec > WORTH_SEC:
        pool = ProcessPoolExecutor(num_jobs, multiprocessing.get_context("spawn"))
    else:
        pool = ThreadPoolExecutor(max(num_jobs, NUM_THREADS))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _read_some(locations: Sequence[str], *, allow_pipes: bool) -> tuple[np.ndarray, dict[int, DataError]]:
    figures, errors = np.zeros((len(locations), 3), np.int64), {}
    for place, location in enumerate(locations):
        if is_command(location) and not allow_pipes:
            continue
        try:
            found = probe(location, allow_pipes=allow_pipes)
            figures[place] = found.rate_hz, found.num_samples, found.num_channels
        except DataError as error:
            errors[place] = error
    return figures, errors
