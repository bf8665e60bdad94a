"""Connections that end in time, so that idle clients, and slow ones, cannot pile up."""

from asyncio import BaseTransport, TimerHandle
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol


class TimedConnection(H11Protocol):
    """HTTP/1.1 where the head of a request, or the next one's, takes `timeout_sec` at most.

    The application answers within as long, and the answer has as long again to be fetched.
    """

    def __init__(self, *arguments: Any, timeout_sec: float, **options: Any):
        super().__init__(*arguments, **options)
        self._timeout_sec = timeout_sec
        self._end: TimerHandle | None = None

    def connection_made(self, transport: BaseTransport) -> None:
        """Begin to wait for a request."""
        super().connection_made(transport)
        self._end_in(self._timeout_sec)

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        if self._end is not None:
            self._end.cancel()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        """Take what has arrived; the head of a request gives it time for its answer."""
        before = self.cycle
        super().handle_events()
        if self.cycle is not before:
            self._end_in(2 * self._timeout_sec)

    def on_response_complete(self) -> None:
        """Wait for another request, which may be here already, or for the last bytes to be fetched."""
        self._end_in(self._timeout_sec)
        super().on_response_complete()

    def _end_in(self, seconds: float) -> None:
        if self._end is not None:
            self._end.cancel()
        self._end = self.loop.call_later(seconds, self.transport.abort)
