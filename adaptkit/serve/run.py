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
from adaptkit.errors import AdaptkitError, counted
from adaptkit.serve.app import create_app
from adaptkit.serve.enrollment.service import hold_folder
from adaptkit.serve.service import ServerSettings, Service
from adaptkit.serve.timeouts import TimedConnection
from adaptkit.serve.workers import Started, leave_on_signals, supervise

_LOG = logging.getLogger(__name__)
_SPARE_SEC = 5.0  # for a process to end, beyond the timeout of a request


def serve(settings: ServerSettings, *, device: str, set_up: Callable[[], None]) -> None:
    """Load the base model and answer requests; on SIGTERM, finish requests in progress and accept no more.

    `set_up` is called in each worker process.
    """
    with _reserved(settings.host, settings.port) as held, hold_folder(settings.enrollment):
        address = held.family, held.getsockname()
        announce = partial(_announce, *address[1][:2], settings.num_workers)
        if settings.num_workers > 1:
            work = partial(_work, address, settings, device, set_up)
            most_sec = settings.limits.timeout_sec + _SPARE_SEC
            supervise(work, settings.num_workers, on_start=announce, most_sec=most_sec)
        else:
            _serve(address, settings, device, announce)


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
    _serve(address, settings, device, on_start)


def _serve(
    address: tuple[int, Any], settings: ServerSettings, device: str, on_start: Callable[[Started], None]
) -> None:
    base = checkpoint.load(settings.base, device)
    with (
        _take(*address, (socket.SO_REUSEADDR, socket.SO_REUSEPORT)) as own,
        Service(base, settings) as service,
    ):
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
        own.listen(config.backlog)
        on_start(Started(len(service.speakers.names), service.cache.num_slots))
        uvicorn.Server(config).run(sockets=[own])


def _announce(host: str, port: int, num_workers: int, started: Started) -> None:
    each = f" in each of {num_workers} processes" if num_workers > 1 else ""
    known, slots, host = started.num_known, started.num_slots, f"[{host}]" if ":" in host else host
    _LOG.info("http://%s:%d serves %s, memory for %d%s", host, port, counted(known, "Submodel"), slots, each)


@contextmanager
def _reserved(host: str, port: int) -> Iterator[socket.socket]:
    """Reserve the port before the model is loaded, which takes seconds; fail if another server has it.

    The port is first taken exclusively, by a socket that listens for a moment, and then held by one with
    SO_REUSEPORT that never listens: other servers are refused it, and processes of this one can share it.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise AdaptkitError(f"--host {host}: {reason}; use an address of this machine") from error
    with _take(family, address, (socket.SO_REUSEADDR,)) as alone:
        try:
            alone.listen()
        except OSError as error:  # another has bound it at the same time
            raise _not_taken(address, error) from error
        alone.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held = _take(family, alone.getsockname(), (socket.SO_REUSEPORT,))
    with held:
        yield held


def _take(family: int, address: Any, options: Sequence[int]) -> socket.socket:
    """Bind a port; with SO_REUSEPORT, Linux distributes connections over the processes that share it."""
    host = address[0]
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
        raise _not_taken(address, error) from error
    return taken


def _not_taken(address: Any, error: OSError) -> AdaptkitError:
    host, port = address[:2]
    where = f"--host {host} --port {port}"
    return AdaptkitError(f"{where}: {error.strerror or error}; choose another port or host")
