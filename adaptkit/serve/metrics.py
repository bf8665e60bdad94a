"""What Prometheus reads: counts and times of requests, sizes of batches, the queue and the cache."""

import os
import shutil
import struct
from contextlib import suppress
from pathlib import Path
from threading import Lock
from time import sleep

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from adaptkit.submodels.slots import CacheStats

_SHARED = "PROMETHEUS_MULTIPROC_DIR"  # read by prometheus_client when it is imported
_ATTEMPTS = 5
_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128)
_COUNTED = {  # by the fields of CacheStats
    "hits": ("hits", "Submodels asked for that were in memory or on their way there."),
    "misses": ("misses", "Submodels asked for that had to be loaded."),
    "evictions": ("evictions", "Submodels that gave way to others."),
    "failures": ("load_failures", "Submodels that could not be loaded."),
    "load_seconds": ("load_seconds", "Time that loading took."),
}
_HELD = {
    "num_resident": ("resident", "Submodels in memory.", "livesum"),
    "resident_bytes": ("resident_bytes", "Bytes of the Submodels in memory.", "livesum"),
    "num_known": ("known", "Submodels that requests can name.", "livemax"),
}


class Metrics:
    """The metrics of one process; what it renders is the server's, of whose processes it may be one."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self.requests = Counter(
            "adaptkit_requests",
            "Requests answered; 499: the client left before.",
            ["path", "status"],
            registry=registry,
        )
        self.seconds = Histogram(
            "adaptkit_request_seconds",
            "From the arrival of a request to its answer.",
            ["path"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.batch_size = Histogram(
            "adaptkit_batch_size",
            "Requests that went through the model together.",
            buckets=_ROWS,
            registry=registry,
        )
        self.audio_seconds = Counter(
            "adaptkit_audio_seconds", "Audio that was recognised.", registry=registry
        )
        self._queue_length = Gauge(
            "adaptkit_queue_length",
            "Requests that wait for the model.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.requests_open = Gauge(
            "adaptkit_requests_open",
            "Requests under way, from their arrival to their answer.",
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

    def note(self, queue_length: int, stats: CacheStats) -> None:
        """Take over how many wait, and what the cache has counted since the last time."""
        with self._noting:
            self._queue_length.set(queue_length)
            for field, counter in self._counted.items():
                value = getattr(stats, field)
                counter.inc(max(0.0, value - self._noted[field]))  # of two threads' the older may come later
                self._noted[field] = max(value, self._noted[field])
            for field, gauge in self._held.items():
                gauge.set(getattr(stats, field))

    def render(self) -> bytes:
        """Write all in Prometheus' text format, summed over the processes of a server."""
        if _SHARED not in os.environ:
            return generate_latest(self._registry)
        together = CollectorRegistry()
        MultiProcessCollector(together)
        for _ in range(_ATTEMPTS - 1):
            with suppress(struct.error):  # of the file that a process is about to make
                return generate_latest(together)
            sleep(0.01)
        return generate_latest(together)


def share(folder: Path) -> None:
    """Let the processes that start from now on add up their metrics in a folder."""
    os.environ[_SHARED] = str(folder)


def unshare() -> None:
    """Remove the folder, whose owner could not."""
    shutil.rmtree(os.environ[_SHARED], ignore_errors=True)


def forget(pid: int) -> None:
    """Leave a process that has ended out of what is held now; what it counted stays."""
    mark_process_dead(pid)
