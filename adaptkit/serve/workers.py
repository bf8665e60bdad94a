"""Worker processes that share a port, each with its own model, since Python threads share one interpreter."""

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
from threading import Event, Lock, Thread
from time import monotonic
from typing import TypeAlias

from adaptkit.errors import AdaptkitError
from adaptkit.serve import metrics

_LOG = logging.getLogger(__name__)
_SPAWN = multiprocessing.get_context("spawn")  # CUDA and OpenMP do not survive a fork
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_LONGEST_PAUSE_SEC = 60.0  # between attempts to replace a process
_BEAT_SEC = 1.0  # between the signs of life of a process
_END_SEC = 2.0  # for a killed process to end; one that waits for a lost network drive may not
SILENT_SEC = 15.0  # a process without a sign of life for longer than that is killed and replaced
_IMPORT_SEC = 120.0  # before its first sign of life, as torch may come from a slow disk


@dataclass(frozen=True)
class Started:
    """What a process reports once it is ready."""

    num_known: int
    num_slots: int


Work: TypeAlias = Callable[[Callable[[Started], None]], None]


class _WorkerSlot:
    """A worker process and its replacements."""

    def __init__(self, work: Work):
        self._work = work
        self._num_failed = 0  # consecutive failures before being ready
        self.start()

    def start(self) -> None:
        """Start a process."""
        self._reports, there = _SPAWN.Pipe(duplex=False)
        self._process = _SPAWN.Process(target=_run, args=(self._work, there), daemon=True)
        self._process.start()
        there.close()  # so that the end of the process closes the pipe
        self._started: Started | None = None
        self._reason = ""  # why it ends, if it has said so
        self._patience_sec = max(_IMPORT_SEC, SILENT_SEC)
        self._silence_sec, self._checked_sec = 0.0, monotonic()
        self._due_sec: float | None = None  # when to start a replacement

    @property
    def sentinel(self) -> int | None:
        """The handle that becomes ready when the process ends; None while there is no process."""
        return self._process.sentinel if self._due_sec is None else None

    def wait(self) -> Started:
        """Wait until the process is ready; if it ends before that, raise its reason."""
        report = self._receive()
        if isinstance(report, str):
            raise AdaptkitError(report)
        self._started = report
        return report

    def restart_if_ended(self) -> float:
        """Replace a process that has ended; return when a pending replacement is due, or infinity."""
        if self._due_sec is None and not self._process.is_alive():
            self._is_silent()  # takes in its last words
            self._note_end(self._started or self._reason or self._receive())
        elif self._due_sec is None and self._is_silent():
            self._note_end(self._end_silent())
        if self._due_sec is not None and monotonic() >= self._due_sec:
            self.start()
        return float("inf") if self._due_sec is None else self._due_sec

    def terminate(self) -> None:
        """Send the process SIGTERM."""
        self._process.terminate()

    def join(self, until_sec: float) -> None:
        """Wait until the process has ended; kill it at `until_sec`."""
        self._process.join(max(0.0, until_sec - monotonic()))
        if self._process.is_alive():
            _LOG.warning("process %d does not end; killing it", self._process.pid)
            self._process.kill()
            self._process.join()

    def _is_silent(self) -> bool:
        """Take in the signs of life, and whether the process is ready; return whether they have ceased.

        Little of a long time between two checks counts, as this process may have been stopped itself.
        """
        now_sec = monotonic()
        self._silence_sec += min(now_sec - self._checked_sec, 2 * _BEAT_SEC)
        self._checked_sec = now_sec
        with suppress(EOFError):  # it has ended meanwhile
            while self._reports.poll():
                report = self._reports.recv()
                self._started = report if isinstance(report, Started) else self._started
                self._reason = report if isinstance(report, str) else self._reason
                self._silence_sec, self._patience_sec = 0.0, SILENT_SEC
        return self._silence_sec > self._patience_sec

    def _end_silent(self) -> str:
        """Kill a process that gives no sign of life; return what to say."""
        self._process.kill()
        self._process.join(_END_SEC)
        silence = f"no sign of life for {self._patience_sec:g} s"
        return f"process {self._process.pid} gave {silence} and was killed"

    def _note_end(self, report: Started | str) -> None:
        """Schedule a replacement: at once if the process was ready, else with exponential backoff."""
        has_served = self._started is not None
        self._num_failed = 0 if has_served else self._num_failed + 1
        pause_sec = min(2.0**self._num_failed - 1, _LONGEST_PAUSE_SEC)
        reason = f"process {self._process.pid} ended with exit code {self._process.exitcode}"
        when = f"in {pause_sec:g} s" if pause_sec else "now"
        _LOG.warning("%s; a replacement starts %s", report if isinstance(report, str) else reason, when)
        metrics.forget(self._process.pid)
        self._due_sec = monotonic() + pause_sec

    def _receive(self) -> Started | str:
        """Wait for the report of the process: that it is ready, or why it ends."""
        try:
            while self._reports.poll(self._patience_sec):
                report, self._patience_sec = self._reports.recv(), SILENT_SEC
                if report is not None:  # a sign of life
                    return report
            return self._end_silent()
        except EOFError:
            self._process.join()
            return (
                f"process {self._process.pid} ended with exit code {self._process.exitcode} before it "
                "was ready; check its output; if memory ran out, use fewer --workers"
            )


def supervise(work: Work, num_workers: int, *, on_start: Callable[[Started], None], most_sec: float) -> None:
    """Run `work` in processes until a signal ends this one; replace processes that end.

    One that gives no sign of life for `SILENT_SEC`, as after SIGSTOP, is killed and replaced as well; before
    its first, it has time to import torch.
    The first must be ready before the others start, so that an error is reported once. `work` is pickled and
    called with a function to report that it is ready. At shutdown, a process has `most_sec` to finish.
    """
    leave_on_signals()
    slots: list[_WorkerSlot] = []
    with tempfile.TemporaryDirectory(prefix="adaptkit-serve-", ignore_cleanup_errors=True) as folder:
        metrics.share(Path(folder))
        try:
            slots.append(_WorkerSlot(work))
            started = slots[0].wait()
            slots += [_WorkerSlot(work) for _ in range(num_workers - 1)]
            for slot in slots[1:]:
                slot.wait()
            on_start(started)
            while True:
                _replace_ended(slots)
        finally:
            _ignore_signals()
            for slot in slots:
                slot.terminate()
            until_sec = monotonic() + most_sec
            for slot in slots:
                slot.join(until_sec)


def leave_on_signals() -> None:
    """End this process on SIGTERM and SIGINT, with its cleanup."""
    for number in _SIGNALS:
        signal.signal(number, _leave)


def _replace_ended(slots: Sequence[_WorkerSlot]) -> None:
    """Replace processes that have ended or hang, then wait for the next one or a due replacement."""
    due_sec = min(slot.restart_if_ended() for slot in slots)
    timeout_sec = min(_BEAT_SEC, max(0.0, due_sec - monotonic()))
    wait([slot.sentinel for slot in slots if slot.sentinel is not None], timeout_sec)


def _run(work: Work, reports: Connection) -> None:
    leave_on_signals()
    Thread(target=_leave_with_parent, name="parent", daemon=True).start()
    sending, ending = Lock(), Event()

    def report(message: Started | str | None) -> None:
        with sending, suppress(OSError):
            reports.send(message)

    def beat() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        while not ending.wait(_BEAT_SEC):
            report(None)

    Thread(target=beat, name="beat", daemon=True).start()
    try:
        work(report)
    except AdaptkitError as error:
        _ignore_signals()  # an exit out of the interpreter's own cleanup would print a traceback
        ending.set()
        report(str(error))
        sys.exit(1)


def _leave_with_parent() -> None:
    """End this process as SIGTERM would, once the supervising process is gone, even if killed."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # signals in this thread would not wake the main one
    multiprocessing.parent_process().join()
    metrics.unshare()
    os.kill(os.getpid(), signal.SIGTERM)


def _leave(number: int, frame: object) -> None:
    _ignore_signals()  # a second signal would interrupt the cleanup
    sys.exit(0)


def _ignore_signals() -> None:
    for number in _SIGNALS:
        signal.signal(number, lambda *_: None)  # with SIG_IGN, Python warns about a signal just received
