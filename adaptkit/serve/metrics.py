"""What Prometheus reads: counts and times of requests, sizes of batches, the queue and the cache."""

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from adaptkit.submodels.cache import SubmodelCache

_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """The metrics of one server, in a registry of their own."""

    def __init__(self, cache: SubmodelCache, queue_length: Callable[[], int], num_open: Callable[[], int]):
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "adaptkit_requests",
            "Requests answered; 499: the client left before.",
            ["path", "status"],
            registry=self._registry,
        )
        self.seconds = Histogram(
            "adaptkit_request_seconds",
            "From the arrival of a request to its answer.",
            ["path"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self.batch_size = Histogram(
            "adaptkit_batch_size",
            "Requests that went through the model together.",
            buckets=_ROWS,
            registry=self._registry,
        )
        self.audio_seconds = Counter(
            "adaptkit_audio_seconds", "Audio that was recognised.", registry=self._registry
        )
        waiting = Gauge(
            "adaptkit_queue_length",
            "Requests that wait for the model.",
            registry=self._registry,
        )
        waiting.set_function(queue_length)
        under_way = Gauge(
            "adaptkit_requests_open",
            "Requests under way, from their arrival to their answer.",
            registry=self._registry,
        )
        under_way.set_function(num_open)
        self._registry.register(_CacheCollector(cache))

    def render(self) -> bytes:
        """Write all in Prometheus' text format."""
        return generate_latest(self._registry)


class _CacheCollector(Collector):
    """Reads the counts of a cache when Prometheus asks."""

    def __init__(self, cache: SubmodelCache):
        self._cache = cache

    def collect(self) -> Iterator[Metric]:
        stats = self._cache.stats()
        counted = {
            "hits": (stats.hits, "Submodels asked for that were in memory or on their way there."),
            "misses": (stats.misses, "Submodels asked for that had to be loaded."),
            "evictions": (stats.evictions, "Submodels that gave way to others."),
            "load_failures": (stats.failures, "Submodels that could not be loaded."),
            "load_seconds": (stats.load_seconds, "Time that loading took."),
        }
        held = {
            "resident": (stats.num_resident, "Submodels in memory."),
            "resident_bytes": (stats.resident_bytes, "Bytes of the Submodels in memory."),
            "known": (stats.num_known, "Submodels that requests can name."),
        }
        for name, (value, meaning) in counted.items():
            yield CounterMetricFamily(f"adaptkit_submodel_{name}", meaning, value)
        for name, (value, meaning) in held.items():
            yield GaugeMetricFamily(f"adaptkit_submodel_{name}", meaning, value)
