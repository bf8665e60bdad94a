"""Middleware that refuses foreign Host headers, and counts requests by status and measures their latency."""

from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address
from time import perf_counter
from typing import Literal

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from adaptkit.serve.metrics import Metrics

_LOCAL = ("localhost", "127.0.0.1", "::1")


class AllowedHosts:
    """Refuses requests whose Host header names another machine, with `refuse(path, host)`.

    A page of another site can make a browser resolve its own name to this server (DNS rebinding), and would
    then read its answers. Allowed are the local names, `names`, and the numeric address that the client has
    connected to, since an attack needs a name; ports are ignored.
    """

    def __init__(self, app: ASGIApp, names: Iterable[str], refuse: Callable[[str, str], Response]):
        self._app, self._refuse = app, refuse
        self._names = frozenset(host_name(name) for name in (*_LOCAL, *names))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle or refuse a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        found = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
        name = host_name(found[0]) if len(found) == 1 else ""
        is_allowed = bool(name) and (name in self._names or name == str(numeric_address(scope, "server")))
        await (self._app if is_allowed else self._refuse(scope["path"], ", ".join(found)))(
            scope, receive, send
        )


def host_name(host: str) -> str:
    """Return the name or address of a Host header in one form, without its port; empty if it is malformed.

    >>> [host_name(host) for host in ("Example.org.:80", "[::1]:8000", "0:0:0:0:0:0:0:1", "a:b")]
    ['example.org', '::1', '::1', '']
    """
    name, port = host.strip(), ""
    if name.startswith("["):
        name, end, port = name[1:].partition("]")
        if not end or port and not port.startswith(":"):
            return ""
        port = port.removeprefix(":")
    elif name.count(":") == 1:
        name, _, port = name.partition(":")
    if port and not (port.isascii() and port.isdigit()):
        return ""
    try:
        return str(ip_address(name))
    except ValueError:
        return name.lower().removesuffix(".")


def numeric_address(scope: Scope, whose: Literal["client", "server"]) -> IPv4Address | IPv6Address | None:
    """Return the address of one end of a connection; None for a Unix socket, or a test client."""
    try:
        return ip_address((scope.get(whose) or ("",))[0])
    except ValueError:
        return None


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
