"""Processes that share a port, each with a model of its own, since threads of one share an interpreter."""

import logging
import multiprocessing
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from threading import Thread
from typing import TypeAlias

from adaptkit.errors import AdaptkitError
from adaptkit.serve import metrics

_LOG = logging.getLogger(__name__)
_SPAWN = multiprocessing.get_context("spawn")  # CUDA and OpenMP do not survive a fork


@dataclass(frozen=True)
class Started:
    """What a process says once it serves."""

    num_known: int
    num_slots: int


Work: TypeAlias = Callable[[Callable[[Started], None]], None]


@dataclass(frozen=True)
class _Worker:
    process: SpawnProcess
    news: Connection

    @property
    def sentinel(self) -> int:
        return self.process.sentinel

    def wait(self) -> Started:
        """Wait until it serves; where it ends before, its reason is an AdaptkitError."""
        try:
            said = self.news.recv()
        except EOFError:
            self.process.join()
            said = f"a process of the server ended with exit code {self.process.exitcode} at its start"
        if isinstance(said, Started):
            return said
        raise AdaptkitError(said)


def supervise(work: Work, num_workers: int, *, on_start: Callable[[Started], None]) -> None:
    """Run `work` in processes until a signal ends this one; one that dies is replaced.

    The first must serve before the others start, so that what is wrong is said once. `work` is pickled; it
    is given a function to call when it serves.
    """
    leave_on_signals()
    workers: list[_Worker] = []
    with tempfile.TemporaryDirectory(prefix="adaptkit-serve-") as folder:
        metrics.share(Path(folder))
        try:
            workers.append(_start(work))
            first = workers[0].wait()
            workers += [_start(work) for _ in range(num_workers - 1)]
            for worker in workers[1:]:
                worker.wait()
            on_start(first)
            while True:
                _replace_dead(workers, work)
        finally:
            for worker in workers:
                worker.process.terminate()
            for worker in workers:
                worker.process.join()


def leave_on_signals() -> None:
    """Let SIGTERM and SIGINT end this process, with what is to be done in the end."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)


def _replace_dead(workers: list[_Worker], work: Work) -> None:
    """Wait until a process ends, and start another in its place, which must come to serve."""
    dead = wait([worker.sentinel for worker in workers])
    for place, worker in enumerate(workers):
        if worker.sentinel not in dead:
            continue
        worker.process.join()
        number, code = worker.process.pid, worker.process.exitcode
        _LOG.warning("process %d ended with exit code %d; another takes its place", number, code)
        metrics.forget(number)
        workers[place] = _start(work)
        workers[place].wait()


def _start(work: Work) -> _Worker:
    here, there = _SPAWN.Pipe(duplex=False)
    process = _SPAWN.Process(target=_run, args=(work, there), daemon=True)
    process.start()
    there.close()  # so that its end is seen
    return _Worker(process, here)


def _run(work: Work, news: Connection) -> None:
    leave_on_signals()
    Thread(target=_leave_with_parent, name="parent", daemon=True).start()
    try:
        work(news.send)
    except AdaptkitError as error:
        news.send(str(error))
        sys.exit(1)


def _leave_with_parent() -> None:
    """End as by a signal once the process that supervises is gone, were it killed."""
    multiprocessing.parent_process().join()
    os.kill(os.getpid(), signal.SIGTERM)


def _leave(number: int, frame: object) -> None:
    sys.exit(0)
