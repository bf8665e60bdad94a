"""Progress that suits where it is read: a bar on a terminal, otherwise at most a line a minute."""

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_LOG = logging.getLogger(__name__)
_QUIET_SEC = 60.0


@contextmanager
def counting(what: str, total: int, done: int = 0) -> Iterator[Callable[[int, str], None]]:
    """Give a function `advance(count, note)` that counts up to `total` and shows the note beside it."""
    if not sys.stderr.isatty():
        yield _Lines(what, total, done)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total, completed=done)
        yield lambda count, note="": bar.update(task, advance=count, description=f"{what} {note}".rstrip())


class _Lines:
    """Log the count when a minute has passed since the last line."""

    def __init__(self, what: str, total: int, done: int):
        self.what, self.total, self.done = what, total, done
        self.said = time.monotonic()

    def __call__(self, count: int, note: str = "") -> None:
        self.done += count
        if time.monotonic() - self.said >= _QUIET_SEC:
            self.said = time.monotonic()
            _LOG.info("%s: %d of %d%s", self.what, self.done, self.total, f", {note}" if note else "")
