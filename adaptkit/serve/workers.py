"""Processes that share a port, each with a model of its own, since threads of one share an interpreter."""

import logging
import multiprocessing
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from threading import Thread
from time import monotonic
from typing import TypeAlias

from adaptkit.errors import AdaptkitError
from adaptkit.serve import metrics

_LOG = logging.getLogger(__name__)
_SPAWN = multiprocessing.get_context("spawn")  # CUDA and OpenMP do not survive a fork
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_LONGEST_PAUSE_SEC = 60.0  # between attempts to replace a process


@dataclass(frozen=True)
class Started:
    """What a process says once it serves."""

    num_known: int
    num_slots: int


Work: TypeAlias = Callable[[Callable[[Started], None]], None]


class _Place:
    """One process, and those that take its place."""

    def __init__(self, work: Work):
        self._work = work
        self._num_failed = 0  # in a row, before they served
        self.start()

    def start(self) -> None:
        """Start a process."""
        self._news, there = _SPAWN.Pipe(duplex=False)
        self._process = _SPAWN.Process(target=_run, args=(self._work, there), daemon=True)
        self._process.start()
        there.close()  # so that its end is seen
        self._started: Started | None = None
        self._due_sec: float | None = None  # when another one starts

    @property
    def sentinel(self) -> int | None:
        """Give what tells that the process ends; nothing while there is none."""
        return self._process.sentinel if self._due_sec is None else None

    def wait(self) -> Started:
        """Wait until it serves; where it ends before, its reason is an AdaptkitError."""
        said = self._hear()
        if isinstance(said, str):
            raise AdaptkitError(said)
        self._started = said
        return said

    def tend(self) -> float:
        """Replace a process that has ended; give when to look again, if not before."""
        if self._due_sec is None and not self._process.is_alive():
            self._bury()
        if self._due_sec is not None and monotonic() >= self._due_sec:
            self.start()
        return float("inf") if self._due_sec is None else self._due_sec

    def terminate(self) -> None:
        """Ask the process to end."""
        self._process.terminate()

    def join(self, until_sec: float) -> None:
        """Wait until it has ended; it is killed where that takes longer than until then."""
        self._process.join(max(0.0, until_sec - monotonic()))
        if self._process.is_alive():
            _LOG.warning("process %d does not end; it is killed", self._process.pid)
            self._process.kill()
            self._process.join()

    def _bury(self) -> None:
        """Note the end of a process: one that served is replaced at once, others after longer and longer."""
        said = self._started or self._hear()
        has_served = isinstance(said, Started)
        self._num_failed = 0 if has_served else self._num_failed + 1
        pause_sec = min(2.0**self._num_failed - 1, _LONGEST_PAUSE_SEC)
        reason = f"process {self._process.pid} ended with exit code {self._process.exitcode}"
        when = f"in {pause_sec:g} s" if pause_sec else "now"
        _LOG.warning("%s; another takes its place %s", reason if has_served else said, when)
        metrics.forget(self._process.pid)
        self._due_sec = monotonic() + pause_sec

    def _hear(self) -> Started | str:
        """Wait for what the process says: that it serves, or why it ends."""
        try:
            return self._news.recv()
        except EOFError:
            self._process.join()
            return (
                f"process {self._process.pid} ended with exit code {self._process.exitcode} before it "
                "served; what it wrote may tell why, and fewer --workers need less memory"
            )


def supervise(work: Work, num_workers: int, *, on_start: Callable[[Started], None], most_sec: float) -> None:
    """Run `work` in processes until a signal ends this one; one that ends is replaced.

    The first must serve before the others start, so that what is wrong is said once. `work` is pickled; it
    is given a function to call when it serves. In the end a process has `most_sec` for what is under way.
    """
    leave_on_signals()
    places: list[_Place] = []
    with tempfile.TemporaryDirectory(prefix="adaptkit-serve-", ignore_cleanup_errors=True) as folder:
        metrics.share(Path(folder))
        try:
            places.append(_Place(work))
            started = places[0].wait()
            places += [_Place(work) for _ in range(num_workers - 1)]
            for place in places[1:]:
                place.wait()
            on_start(started)
            while True:
                _tend(places)
        finally:
            _ignore_signals()
            for place in places:
                place.terminate()
            until_sec = monotonic() + most_sec
            for place in places:
                place.join(until_sec)


def leave_on_signals() -> None:
    """Let SIGTERM and SIGINT end this process, with what is to be done in the end."""
    for number in _SIGNALS:
        signal.signal(number, _leave)


def _tend(places: Sequence[_Place]) -> None:
    """Replace processes that have ended, and wait until there is something to do."""
    due_sec = min(place.tend() for place in places)
    timeout_sec = None if due_sec == float("inf") else max(0.0, due_sec - monotonic())
    wait([place.sentinel for place in places if place.sentinel is not None], timeout_sec)


def _run(work: Work, news: Connection) -> None:
    leave_on_signals()
    Thread(target=_leave_with_parent, name="parent", daemon=True).start()
    try:
        work(news.send)
    except AdaptkitError as error:
        with suppress(OSError):
            news.send(str(error))
        sys.exit(1)


def _leave_with_parent() -> None:
    """End as by a signal once the process that supervises is gone, were it killed."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # which would not wake the main thread from here
    multiprocessing.parent_process().join()
    metrics.unshare()
    os.kill(os.getpid(), signal.SIGTERM)


def _leave(number: int, frame: object) -> None:
    _ignore_signals()  # a second one would break off what is to be done
    sys.exit(0)


def _ignore_signals() -> None:
    for number in _SIGNALS:
        signal.signal(number, lambda *_: None)  # with SIG_IGN, Python would complain of one just arrived
