"""Threads that read files; one that hangs on a lost network drive does not keep the process from ending."""

from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from threading import Thread
from typing import Any

_Job = tuple["Future[Any]", Callable[..., Any], tuple[Any, ...]]


class Loaders:
    """Daemon threads that run jobs in the order of their submission.

    Threads of concurrent.futures are joined when the interpreter ends, however long they take.
    """

    def __init__(self, num_threads: int, name: str):
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._num_threads = num_threads
        for index in range(num_threads):
            Thread(target=self._run, name=f"{name}_{index}", daemon=True).start()

    def submit(self, function: Callable[..., Any], *arguments: Any) -> "Future[Any]":
        """Run a function in a thread; return the future of its result."""
        future: Future[Any] = Future()
        self._jobs.put((future, function, arguments))
        return future

    def close(self) -> None:
        """End each thread after its job, without waiting for it; jobs that have not begun are dropped."""
        while not self._jobs.empty():
            job = self._jobs.get()
            if job is not None:
                job[0].cancel()
        for _ in range(self._num_threads):
            self._jobs.put(None)

    def _run(self) -> None:
        while job := self._jobs.get():
            future, function, arguments = job
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(function(*arguments))
                except BaseException as error:  # raised where the result is used
                    future.set_exception(error)
            del job, future, function, arguments
