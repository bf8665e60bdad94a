"""Progress reporting: bars on a terminal, otherwise at most one log line per minute."""

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress

_LOG = logging.getLogger(__name__)
_QUIET_SEC = 60.0
_BARS: ContextVar["Progress | None"] = ContextVar("bars", default=None)


@contextmanager
def counting(what: str, total: int, done: int = 0) -> Iterator[Callable[[int, str], None]]:
    """Yield a function `advance(count, note)` that counts up to `total` and shows the note beside it.

    A count started inside the block of another is shown below it.
    """
    if _BARS.get() is None and not sys.stderr.isatty():  # rich before 15 replaces stderr by no terminal
        yield _Lines(what, total, done)
        return
    with _shown_bars() as bars:
        task = bars.add_task(what, total=total, completed=done)
        yield lambda count, note="": bars.update(task, advance=count, description=f"{what} {note}".rstrip())
        bars.remove_task(task)


@contextmanager
def _shown_bars() -> Iterator["Progress"]:
    """Yield the progress bars on the terminal, reusing those of an enclosing count."""
    shown = _BARS.get()
    if shown is not None:
        yield shown
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        before = _BARS.set(bars)
        try:
            yield bars
        finally:
            _BARS.reset(before)


class _Lines:
    """Log the count when a minute has passed since the last log line."""

    def __init__(self, what: str, total: int, done: int):
        self.what, self.total, self.done = what, total, done
        self.done_before, self.started = done, time.monotonic()
        self.said = self.started

    def __call__(self, count: int, note: str = "") -> None:
        self.done += count
        if time.monotonic() - self.said >= _QUIET_SEC:
            self.said = time.monotonic()
            words = (self.what, self.done, self.total, f", {note}" if note else "", self._time_left())
            _LOG.info("%s: %d of %d%s, about %s left", *words)

    def _time_left(self) -> str:
        """Estimate the time left from the pace so far, as hours:minutes:seconds."""
        per_item = (time.monotonic() - self.started) / max(1, self.done - self.done_before)
        return str(timedelta(seconds=round(per_item * max(0, self.total - self.done))))
