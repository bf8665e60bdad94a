"""Middleware that counts requests by status and measures their latency."""

from time import perf_counter

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from adaptkit.serve.metrics import Metrics


class Counting:
    """Counts every request; unknown paths are counted together."""

    def __init__(self, app: ASGIApp, metrics: Metrics, paths: frozenset[str]):
        self._app, self._metrics, self._paths = app, metrics, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request, and count it when its response starts."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"] if scope["path"] in self._paths else "other"
        started = perf_counter()

        def count(status: int) -> None:
            self._metrics.requests.labels(path, status).inc()
            self._metrics.seconds.labels(path).observe(perf_counter() - started)

        async def send_and_count(message: Message) -> None:
            if message["type"] == "http.response.start":
                count(message["status"])
            await send(message)

        try:
            await self._app(scope, receive, send_and_count)
        except Exception:  # Starlette responds to it outside of this middleware
            count(500)
            raise
