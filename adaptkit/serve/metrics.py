"""Prometheus metrics: request counts and latencies, batch sizes, the queue and the cache."""

import os
import shutil
import struct
from contextlib import suppress
from pathlib import Path
from threading import Lock
from time import sleep
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

if TYPE_CHECKING:  # a process that only supervises others need not load torch
    from adaptkit.submodels.slots import CacheStats

_SHARED = "PROMETHEUS_MULTIPROC_DIR"  # read by prometheus_client when it is imported
_ATTEMPTS = 5
_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128)
_COUNTED = {  # by the fields of CacheStats
    "hits": ("hits", "Requested Submodels that were in memory or being loaded."),
    "misses": ("misses", "Requested Submodels that had to be loaded."),
    "evictions": ("evictions", "Submodels that were evicted."),
    "failures": ("load_failures", "Submodels that could not be loaded."),
    "load_seconds": ("load_seconds", "Total time of loading Submodels."),
}
_HELD = {
    "num_resident": ("resident", "Submodels in memory.", "livesum"),
    "resident_bytes": ("resident_bytes", "Bytes of the Submodels in memory.", "livesum"),
    "num_known": ("known", "Submodels that requests can name.", "livemax"),
}


class Metrics:
    """The metrics of one process; the exported text sums over all processes of the server."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self.requests = Counter(
            "adaptkit_requests",
            "Requests answered; status 499: the client disconnected first.",
            ["path", "status"],
            registry=registry,
        )
        self.seconds = Histogram(
            "adaptkit_request_seconds",
            "Time from the arrival of a request to its response.",
            ["path"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.batch_size = Histogram(
            "adaptkit_batch_size",
            "Requests per batch.",
            buckets=_ROWS,
            registry=registry,
        )
        self.audio_seconds = Counter(
            "adaptkit_audio_seconds", "Duration of the recognised audio.", registry=registry
        )
        self._queue_length = Gauge(
            "adaptkit_queue_length",
            "Requests waiting for the model.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.requests_open = Gauge(
            "adaptkit_requests_open",
            "Requests in progress, from arrival to response.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self._counted = {
            field: Counter(f"adaptkit_submodel_{name}", meaning, registry=registry)
            for field, (name, meaning) in _COUNTED.items()
        }
        self._held = {
            field: Gauge(f"adaptkit_submodel_{name}", meaning, registry=registry, multiprocess_mode=mode)
            for field, (name, meaning, mode) in _HELD.items()
        }
        self._noted = dict.fromkeys(_COUNTED, 0.0)
        self._noting = Lock()

    def note(self, queue_length: int, stats: "CacheStats") -> None:
        """Record the queue length, and what the cache has counted since the last call."""
        with self._noting:
            self._queue_length.set(queue_length)
            for field, counter in self._counted.items():
                value = getattr(stats, field)
                counter.inc(max(0.0, value - self._noted[field]))  # statistics of two threads may swap order
                self._noted[field] = max(value, self._noted[field])
            for field, gauge in self._held.items():
                gauge.set(getattr(stats, field))

    def as_text(self) -> bytes:
        """Return all metrics in Prometheus' text format, summed over the processes of the server."""
        if _SHARED not in os.environ:
            return generate_latest(self._registry)
        together = CollectorRegistry()
        MultiProcessCollector(together)
        for _ in range(_ATTEMPTS - 1):
            with suppress(struct.error):  # while another process is creating its file
                return generate_latest(together)
            sleep(0.01)
        return generate_latest(together)


def share(folder: Path) -> None:
    """Make the processes that start from now on share their metrics in a folder."""
    os.environ[_SHARED] = str(folder)


def unshare() -> None:
    """Remove the shared folder, if its owner was killed."""
    shutil.rmtree(os.environ[_SHARED], ignore_errors=True)


def forget(pid: int) -> None:
    """Remove a process that has ended from the gauges; its counters remain."""
    mark_process_dead(pid)
