"""Run the server until a signal ends it: `adaptkit serve`."""

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
_SPARE_SEC = 5.0  # for a process to end, beyond the timeout of a request


def serve(settings: ServerSettings, *, device: str, set_up: Callable[[], None]) -> None:
    """Load the base model and answer requests; on SIGTERM, finish requests in progress and accept no more.

    `set_up` is called in each worker process.
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
    """Serve as one of several processes, with its share of the cores."""
    set_up()
    if "OMP_NUM_THREADS" not in os.environ:  # else the user has set the threads per process
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
            access_log=False,  # requests are counted in the metrics
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=math.ceil(settings.limits.timeout_sec),
        )
        leave_on_signals()  # uvicorn catches both signals, shuts down gracefully and raises them again
        bound.listen(config.backlog)
        on_start(Started(len(service.speakers.names), service.cache.num_slots))
        uvicorn.Server(config).run(sockets=[bound])


def _announce(host: str, port: int, num_workers: int, started: Started) -> None:
    each = f" in each of {num_workers} processes" if num_workers > 1 else ""
    known, slots = started.num_known, started.num_slots
    _LOG.info("http://%s:%d serves %d Submodels, memory for %d%s", host, port, known, slots, each)


@contextmanager
def _bound(host: str, port: int, *, is_shared: bool) -> Iterator[socket.socket]:
    """Bind the port before the model is loaded, which takes seconds; listen only afterwards.

    A port for several processes is first bound exclusively, to fail if another server has it, and then
    reserved by a socket with SO_REUSEPORT that never listens.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise AdaptkitError(
            f"--host {host}: {error.strerror or error}; use an address of this machine"
        ) from error
    with _take(family, address, (socket.SO_REUSEADDR,)) as alone:
        if not is_shared:
            yield alone
            return
        address = alone.getsockname()
    with _take(family, address, (socket.SO_REUSEPORT,)) as held:
        yield held


def _take(family: int, address: Any, options: Sequence[int]) -> socket.socket:
    """Bind a port; with SO_REUSEPORT, Linux distributes connections over the processes that share it."""
    host, port = address[:2]
    try:
        # asyncio sets TCP_NODELAY only if the protocol is named; without it, responses are delayed
        taken = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    except OSError as error:
        raise AdaptkitError(
            f"--host {host}: {error.strerror or error}; use an address of this machine"
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
