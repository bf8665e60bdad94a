"""Serve until a signal ends it: what `adaptkit serve` does."""

import logging
import math
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import uvicorn

from adaptkit.base import checkpoint
from adaptkit.errors import AdaptkitError
from adaptkit.serve.app import create_app
from adaptkit.serve.connections import TimedConnection
from adaptkit.serve.service import Service
from adaptkit.serve.settings import Settings

_LOG = logging.getLogger(__name__)


def serve(settings: Settings, *, device: str) -> None:
    """Load the base model and answer requests; SIGTERM lets those under way end, and no more come in."""
    with (
        _bound(settings.host, settings.port) as listening,
        Service(checkpoint.load(settings.base, device), settings) as service,
    ):
        config = uvicorn.Config(
            create_app(service),
            http=partial(TimedConnection, timeout_sec=settings.limits.timeout_sec),
            ws="none",
            lifespan="off",
            log_config=None,  # logging is set up already
            access_log=False,  # metrics count requests
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=math.ceil(settings.limits.timeout_sec),
        )
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _leave)  # uvicorn catches both, ends gracefully and raises them again
        listening.listen(config.backlog)
        host, port = listening.getsockname()[:2]
        known, slots = len(service.speakers.names), service.cache.num_slots
        _LOG.info("http://%s:%d serves %d Submodels, %d at once in memory", host, port, known, slots)
        uvicorn.Server(config).run(sockets=[listening])


@contextmanager
def _bound(host: str, port: int) -> Iterator[socket.socket]:
    """Take the port before the model is loaded, which takes seconds; it listens only afterwards."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
    except OSError as error:
        raise AdaptkitError(
            f"--host {host}: {error.strerror or error}; give an address of this machine"
        ) from error
    with listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind(address)
        except OSError as error:
            where = f"--host {host} --port {port}"
            raise AdaptkitError(f"{where}: {error.strerror or error}; choose another port or host") from error
        yield listening


def _leave(number: int, frame: object) -> None:
    sys.exit(0)
