"""The recognition service: from the body of a request to its response, with the threads it needs."""

import asyncio
import math
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter

import torch

from adaptkit.base import padding
from adaptkit.base.checkpoint import BaseModel
from adaptkit.base.search.choose import new_searcher
from adaptkit.decoding.models import ModelOptions
from adaptkit.decoding.recognizer import Recognizer
from adaptkit.errors import CheckpointError, ConfigError, counted
from adaptkit.features.fbank import FbankOptions, log_mel
from adaptkit.search_options import SearchRequest
from adaptkit.serve.answers import Prepared, describe
from adaptkit.serve.audio import Speech, read_speech
from adaptkit.serve.batching import Found, Queue, Room, Waiting
from adaptkit.serve.enrollment.service import Enrollment, EnrollmentSettings
from adaptkit.serve.metrics import Metrics
from adaptkit.serve.model_worker import ModelThread
from adaptkit.serve.routing import new_routing
from adaptkit.serve.schemas import (
    Alternative,
    Health,
    KnownSubmodel,
    Recognised,
    Refusal,
    Submodels,
    UnusableFile,
)
from adaptkit.serve.speakers import Speakers
from adaptkit.serve.watch import Watch
from adaptkit.submodels.cache import SubmodelCache

_NUM_READERS = 2  # threads that read audio and compute features: 3 ms for 3 s of speech
_MOST_TRIES = 4  # of a request whose Submodel turns out to be gone
_NOTHING = Found(
    (Alternative(text="", score=0.0),), None, 0.0, 0.0, 0.0, 0.0, batch_size=0, batch_speakers=0, words=()
)


@dataclass(frozen=True)
class ServerLimits:
    """The limits of a request, a batch and the queue."""

    max_batch: int  # rows
    batch_frames: int  # feature frames per batch, including padding
    max_body_mb: float
    max_sec: float  # duration of a recording
    max_queue: int  # requests in progress at once, from arrival to response
    timeout_sec: float  # from the arrival of a request to its response

    @property
    def max_body_bytes(self) -> int:
        """The largest body in bytes."""
        return round(self.max_body_mb * 1e6)


@dataclass(frozen=True)
class ServerSettings:
    """The models, address, limits and other settings of a server."""

    base: Path
    submodels: Path
    host: str
    port: int  # 0: any free port
    submodel_mb: float  # memory for resident Submodels in MiB
    unknown_speaker: str  # error, base, shared, or a way to choose: likelihood, embedding
    limits: ServerLimits
    refresh_sec: float  # between scans of the folder of Submodels
    num_workers: int = 1  # processes, each with its own models and limits
    preload: tuple[str, ...] = ()  # speakers whose Submodels are loaded at startup and kept
    allowed_hosts: tuple[str, ...] = ()  # further names that Host headers may have
    tokens: tuple[str, ...] = field(default=(), repr=False)  # one is needed, if there are any
    search: SearchRequest = SearchRequest()
    enrollment: EnrollmentSettings | None = None  # None: no recordings are kept
    route_nearest: int | None = None  # voices whose likelihoods are compared; None for the default


class Service:
    """A base model, its Submodels and the threads that process requests; a context manager."""

    def __init__(self, base: BaseModel, settings: ServerSettings):
        self.base, self.limits, self._preload = base, settings.limits, settings.preload
        self.hosts, self.tokens = (settings.host, *settings.allowed_hosts), settings.tokens
        searcher = new_searcher(base, settings.search)
        self.most_nbest = searcher.nbest
        options = ModelOptions(settings.base, submodels=settings.submodels, search=settings.search)
        budget_bytes = round(settings.submodel_mb * 2**20)
        self.cache = SubmodelCache(settings.submodels, base, budget_bytes=budget_bytes)
        self.speakers = Speakers(self.cache, settings.submodels, unknown=settings.unknown_speaker)
        self.queue = Queue(_room(base, self.cache, settings))
        self.metrics = Metrics()
        self.num_open = 0  # requests in progress, from arrival to response
        self._options = None if base.features is None else FbankOptions.from_dict(base.features)
        self._readers = ThreadPoolExecutor(
            _NUM_READERS, "audio", initializer=torch.set_num_threads, initargs=(1,)
        )
        self._watch = Watch(self._look, settings.refresh_sec, name="watch")
        self._routing = new_routing(
            settings.unknown_speaker,
            self.cache,
            base,
            folder=settings.submodels,
            nearest=settings.route_nearest,
            batch_frames=settings.limits.batch_frames,
            num_preloaded=len(settings.preload),
        )
        self.most_sec = min(base.prompting.most_sec if base.prompting else math.inf, self.limits.max_sec)
        self.enrollment = settings.enrollment and Enrollment(
            settings.enrollment,
            base,
            submodels=settings.submodels,
            max_sec=self.most_sec,
            look=self._watch.look_now,
        )
        recognizer = Recognizer(base, searcher, self.cache.stack, self.cache, options=options)
        self._worker = ModelThread(recognizer, self.queue, on_batch=self._note, routing=self._routing)

    def __enter__(self) -> "Service":
        with self.cache.using(self._preload):
            self.cache.pin(self._preload)
        self._worker.start(self._read(Speech(torch.zeros(self.base.rate_hz), 1.0)))
        self._watch.start()
        if self.enrollment is not None:
            self.enrollment.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.enrollment is not None:
            self.enrollment.close()
        self._watch.close()
        self._readers.shutdown(cancel_futures=True)
        self.queue.close()
        self._worker.join()
        self.cache.close()

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Count a request from arrival to response; refuse it if too many are in progress."""
        if self.num_open >= self.limits.max_queue:
            raise Refusal(503, f"{self.num_open} requests are in progress already; send this later")
        self.num_open += 1
        self.metrics.requests_open.set(self.num_open)
        try:
            yield
        finally:
            self.num_open -= 1
            self.metrics.requests_open.set(self.num_open)

    def health(self) -> Health:
        """Return the state of the server."""
        return Health(
            ready=self._worker.is_alive and self._watch.is_alive,
            base_fingerprint=self.base.fingerprint,
            num_known=len(self.speakers.names),
            queue_length=len(self.queue),
        )

    def list_submodels(self) -> Submodels:
        """List the Submodels that requests can name, and the files that cannot be used."""
        resident = frozenset(self.cache.resident())
        return Submodels(
            known=[KnownSubmodel(speaker=name, resident=name in resident) for name in self.speakers.names],
            problems=[UnusableFile(name=name, reason=why) for name, why in self.speakers.problems.items()],
            num_slots=self.cache.num_slots,
            bytes_each=self.cache.bytes_each,
        )

    def format_metrics(self) -> bytes:
        """Return the metrics of the server in Prometheus' text format."""
        self._note_state()
        return self.metrics.as_text()

    async def recognise(
        self, body: bytes, speaker: str | None, nbest: int | None = None, *, started_sec: float
    ) -> Recognised:
        """Process a request; cancelling this removes it from the queue."""
        if nbest is not None and nbest > self.most_nbest:
            raise Refusal(
                400,
                f"nbest: {nbest}, but this server finds {self.most_nbest}; ask for fewer, or start it with a "
                f"beam search and --nbest {nbest}",
            )
        prepared, found = await self.find(body, speaker)
        return describe(prepared, found, speaker, nbest, perf_counter() - started_sec)

    async def find(
        self, body: bytes, speaker: str | None, *, is_base: bool = False, with_times: bool = False
    ) -> tuple[Prepared, Found]:
        """Find the words in an audio file, with their times if asked for; cancelling this gives up.

        `is_base` asks for the base model alone, also where the server chooses a Submodel for whom it does not
        know.
        """
        task = None if is_base else self.speakers.choose(speaker)
        is_routed = not is_base and self.speakers.is_routed(speaker)
        prepared = await asyncio.get_running_loop().run_in_executor(
            self._readers, self._prepare, body, task, is_routed, with_times
        )
        found = _NOTHING if prepared.row is None else await self._find(prepared.row)
        self.metrics.audio_seconds.inc(prepared.audio_sec)
        return prepared, found

    async def _find(self, waiting: Waiting) -> Found:
        self.queue.put(waiting)
        try:
            return await asyncio.wrap_future(waiting.found)
        except CheckpointError as error:  # removed or found damaged since the request arrived
            self.speakers.update()
            instead = self.speakers.choose(waiting.speaker)
            is_routed = waiting.is_routed or self.speakers.is_routed(waiting.speaker)
            is_other = instead != waiting.speaker or is_routed  # the base model, or another's Submodel
            if is_other and waiting.num_tries < _MOST_TRIES:
                again = {"found": Future(), "num_tries": waiting.num_tries + 1}
                return await self._find(replace(waiting, speaker=instead, is_routed=is_routed, **again))
            raise Refusal(409, self.speakers.without_folder(str(error))) from error
        finally:
            self.queue.drop(waiting)

    def _note(self, batch_size: int) -> None:
        """Record the size of a batch taken from the queue."""
        self.metrics.batch_size.observe(batch_size)
        self._note_state()

    def _look(self) -> None:
        """Scan the folder, and record the state for the metrics."""
        self.speakers.refresh()
        if self._routing is not None:
            self._routing.refresh()
        self._note_state()

    def _note_state(self) -> None:
        """Record the state of the queue and the cache, so that any process can export it."""
        self.metrics.note(len(self.queue), self.cache.stats())

    def _prepare(self, body: bytes, task: str | None, is_routed: bool, with_times: bool) -> Prepared:
        """Read a body into the form the model reads, while its Submodel is being loaded."""
        started = perf_counter()
        if task is not None and self.num_open <= self.cache.num_slots:  # else requests evict each other's
            self.cache.prefetch([task])
        speech = read_speech(body, rate_hz=self.base.rate_hz, most_sec=self.most_sec)
        row = self._read(speech, task, is_routed=is_routed, with_times=with_times)
        return Prepared(row, speech.duration_sec, perf_counter() - started)

    def _read(
        self,
        speech: Speech,
        task: str | None = None,
        *,
        is_routed: bool = False,
        with_times: bool = False,
    ) -> Waiting | None:
        """Convert speech to a row for the model; None if it is too short for the encoder."""
        options = self._options
        if options is None:
            own_frames = padding.feature_frames(self.base.model.frontend, len(speech.samples))
            num_frames = self.base.padded_frames or own_frames
        else:
            num_frames = options.count_frames(len(speech.samples))
        if padding.encoder_frames(self.base.model.encoder, num_frames) < 1:
            return None
        scaled = self.base.preprocessor.scale(speech.samples)
        inputs = scaled if options is None else log_mel(scaled, options)
        timed_sec = speech.duration_sec if with_times else None
        return Waiting(inputs, num_frames, task, is_routed=is_routed, timed_sec=timed_sec)


def _room(base: BaseModel, cache: SubmodelCache, settings: ServerSettings) -> Room:
    """Return the limits of a batch, given the slots not taken by preloaded Submodels."""
    resident = frozenset(settings.preload)
    if len(resident) >= cache.num_slots:
        raise ConfigError(
            f"--preload: no room for others: {counted(len(resident), 'Submodel')} of {cache.bytes_each} "
            f"bytes, and {cache.num_slots} fit in memory; raise --submodel-mb {settings.submodel_mb:g}"
        )
    return Room(
        num_rows=settings.limits.max_batch,
        num_frames=settings.limits.batch_frames,
        num_speakers=cache.num_slots - len(resident),
        resident=resident,
        mixes_lengths=padding.mixes_lengths(base.model),
        mixes_speakers=cache.stack.mixes_tasks,
    )
