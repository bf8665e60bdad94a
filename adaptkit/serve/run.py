"""Serve until a signal ends it: what `adaptkit serve` does."""

import logging
import math
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import uvicorn

from adaptkit.base import checkpoint
from adaptkit.errors import AdaptkitError
from adaptkit.serve.app import create_app
from adaptkit.serve.service import ServerSettings, Service
from adaptkit.serve.timeouts import TimedConnection
from adaptkit.serve.workers import Started, leave_on_signals, supervise

_LOG = logging.getLogger(__name__)
_SPARE_SEC = 5.0  # beyond the time of a request, for a process to end


def serve(settings: ServerSettings, *, device: str, set_up: Callable[[], None]) -> None:
    """Load the base model and answer requests; SIGTERM lets those under way end, and no more come in.

    `set_up` is called in each process that is started for that.
    """
    has_several = settings.num_workers > 1
    with _bound(settings.host, settings.port, is_shared=has_several) as bound:
        announce = partial(_announce, *bound.getsockname()[:2], settings.num_workers)
        if has_several:
            work = partial(_work, (bound.family, bound.getsockname()), settings, device, set_up)
            most_sec = settings.limits.timeout_sec + _SPARE_SEC
            supervise(work, settings.num_workers, on_start=announce, most_sec=most_sec)
        else:
            _serve(bound, settings, device, announce)


def _work(
    address: tuple[int, Any],
    settings: ServerSettings,
    device: str,
    set_up: Callable[[], None],
    on_start: Callable[[Started], None],
) -> None:
    """Serve as one process of several, with its share of the cores."""
    set_up()
    if "OMP_NUM_THREADS" not in os.environ:  # by which a user says how many a process has
        torch.set_num_threads(max(1, torch.get_num_threads() // settings.num_workers))
    with _take(*address, (socket.SO_REUSEADDR, socket.SO_REUSEPORT)) as own:
        _serve(own, settings, device, on_start)


def _serve(
    bound: socket.socket, settings: ServerSettings, device: str, on_start: Callable[[Started], None]
) -> None:
    with Service(checkpoint.load(settings.base, device), settings) as service:
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
        leave_on_signals()  # uvicorn catches both, ends gracefully and raises them again
        bound.listen(config.backlog)
        on_start(Started(len(service.speakers.names), service.cache.num_slots))
        uvicorn.Server(config).run(sockets=[bound])


def _announce(host: str, port: int, num_workers: int, started: Started) -> None:
    each = f" of each of {num_workers} processes" if num_workers > 1 else ""
    known, slots = started.num_known, started.num_slots
    _LOG.info("http://%s:%d serves %d Submodels, %d at once in memory%s", host, port, known, slots, each)


@contextmanager
def _bound(host: str, port: int, *, is_shared: bool) -> Iterator[socket.socket]:
    """Take the port before the model is loaded, which takes seconds; it listens only afterwards.

    One to be shared by processes is taken alone first, or it could be shared with another server too; from
    then on a socket that admits only sharers, and never listens, keeps it.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise AdaptkitError(
            f"--host {host}: {error.strerror or error}; give an address of this machine"
        ) from error
    with _take(family, address, (socket.SO_REUSEADDR,)) as alone:
        if not is_shared:
            yield alone
            return
        address = alone.getsockname()
    with _take(family, address, (socket.SO_REUSEPORT,)) as held:
        yield held


def _take(family: int, address: Any, options: Sequence[int]) -> socket.socket:
    """Take a port; with SO_REUSEPORT others of this user may too, and Linux deals connections out to them."""
    host, port = address[:2]
    try:
        # the protocol is named, or asyncio would let TCP hold back the ends of answers
        taken = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    except OSError as error:
        raise AdaptkitError(
            f"--host {host}: {error.strerror or error}; give an address of this machine"
        ) from error
    try:
        for option in options:
            taken.setsockopt(socket.SOL_SOCKET, option, 1)
        taken.bind(address)
    except OSError as error:
        taken.close()
        where = f"--host {host} --port {port}"
        raise AdaptkitError(f"{where}: {error.strerror or error}; choose another port or host") from error
    return taken
