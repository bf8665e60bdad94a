"""Counts every request with its status and its time."""

from time import perf_counter

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from adaptkit.serve.metrics import Metrics


class Counting:
    """Middleware around an application; paths that it does not have are counted as one."""

    def __init__(self, app: ASGIApp, metrics: Metrics, paths: frozenset[str]):
        self._app, self._metrics, self._paths = app, metrics, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, and count it when its answer begins."""
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
        except Exception:  # which Starlette answers outside of this
            count(500)
            raise
