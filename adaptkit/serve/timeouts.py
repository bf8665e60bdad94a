"""Connection timeouts, so that idle and slow clients cannot accumulate."""

from asyncio import BaseTransport, TimerHandle
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from adaptkit.serve.schemas import Failure


class TimedConnection(H11Protocol):
    """HTTP/1.1 with a limit of `timeout_sec` each for the request head, the response, and sending it."""

    def __init__(self, *arguments: Any, timeout_sec: float, **options: Any):
        super().__init__(*arguments, **options)
        self._timeout_sec = timeout_sec
        self._end: TimerHandle | None = None

    def connection_made(self, transport: BaseTransport) -> None:
        """Start the timeout for a request."""
        super().connection_made(transport)
        self._end_in(self._timeout_sec)

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the timeout."""
        if self._end is not None:
            self._end.cancel()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        """Process received data; restart the timeout once the head of a request is complete."""
        before = self.cycle
        super().handle_events()
        if self.cycle is not before:
            self._end_in(2 * self._timeout_sec)

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP with the kind of body that every refusal has."""
        content = Failure(status=400, message=f"{msg} Send HTTP/1.1 with one Host header.")
        body = content.model_dump_json().encode()
        head = f"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
        self.transport.write(head.encode() + b"\r\nconnection: close\r\n\r\n" + body)
        self.transport.close()

    def on_response_complete(self) -> None:
        """Restart the timeout, for the next request or for the client to read the response."""
        self._end_in(self._timeout_sec)
        super().on_response_complete()

    def _end_in(self, seconds: float) -> None:
        if self._end is not None:
            self._end.cancel()
        self._end = self.loop.call_later(seconds, self.transport.abort)
