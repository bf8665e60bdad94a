"""A thread that looks at intervals whether there is something to do, as another process may have made it."""

import logging
from collections.abc import Callable
from threading import Event, Thread

from adaptkit.errors import AdaptkitError

_LOG = logging.getLogger(__name__)
_LOOKING_SEC = 2.0  # the longest wait for a look


class Watch:
    """Calls `look` every `every_sec` seconds, and when it is woken; a look that fails is made again."""

    def __init__(self, look: Callable[[], None], every_sec: float, *, name: str, closing_sec: float = 2.0):
        self._look, self._every_sec, self._closing_sec = look, every_sec, closing_sec
        self._closing, self._woken, self._looked = Event(), Event(), Event()
        self._thread = Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether the thread is running."""
        return self._thread.is_alive()

    @property
    def is_closing(self) -> bool:
        """Whether the thread is to end."""
        return self._closing.is_set()

    def wake(self) -> None:
        """Look at once."""
        self._woken.set()

    def look_now(self) -> None:
        """Look at once, and wait until that is done, or a while if it hangs."""
        self._looked.clear()
        self.wake()
        self._looked.wait(_LOOKING_SEC)

    def close(self) -> None:
        """Stop the thread; one that hangs in a look, as on a lost network drive, is left behind."""
        self._closing.set()
        self._woken.set()
        self._thread.join(self._closing_sec)

    def _run(self) -> None:
        logged = ""
        while not self.is_closing:
            is_awaited = self._woken.wait(self._every_sec)
            self._woken.clear()
            if self.is_closing:
                return
            try:
                self._look()
                logged = ""
            except Exception as error:  # the next look may succeed, if a folder is back
                if str(error) != logged:
                    _LOG.warning("%s", error, exc_info=not isinstance(error, AdaptkitError))
                logged = str(error)
            if is_awaited:
                self._looked.set()
