"""The thread that runs the model on batches of waiting requests."""

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from threading import Thread
from time import perf_counter

import torch

from adaptkit.base.search.paths import BestPath
from adaptkit.data.batches import Batch, collate
from adaptkit.data.dataset import BASE_TASK, Example
from adaptkit.decoding.recognizer import Recognizer
from adaptkit.decoding.transcripts import Word, find_words
from adaptkit.errors import AdaptkitError
from adaptkit.kaldi.datadir import Utterance
from adaptkit.serve.batching import Found, Queue, Waiting
from adaptkit.serve.routing import Routing
from adaptkit.serve.schemas import Alternative, Refusal, Routed, SubmodelUsed
from adaptkit.submodels.files import Submodel
from adaptkit.submodels.router import Choice

_DIGITS = 12  # of a fingerprint, enough to distinguish base models
_LOG = logging.getLogger(__name__)


class ModelThread:
    """Runs a batch as soon as a request waits; requests that arrive meanwhile form the next batch."""

    def __init__(
        self,
        recognizer: Recognizer,
        queue: Queue,
        *,
        on_batch: Callable[[int], None],
        routing: Routing | None = None,
    ):
        self._recognizer, self._queue, self._routing = recognizer, queue, routing
        self._tokens, self._on_batch = recognizer.base.tokens, on_batch
        if routing is not None:
            routing.attach(recognizer.adapted)
        self._num_cores = torch.get_num_threads()  # each audio thread uses one more, briefly
        self._thread = Thread(target=self._run, name="model", daemon=True)

    @property
    def is_alive(self) -> bool:
        """Whether the thread takes requests."""
        return self._thread.is_alive()

    def start(self, trial: Waiting) -> None:
        """Run a trial request, so that errors show at startup, then start to take requests."""
        with torch.inference_mode(), self._recognizer.adapted.hooked():
            list(self._find([trial]))
        self._thread.start()

    def join(self) -> None:
        """Wait until the queue is closed and empty."""
        self._thread.join()

    def _run(self) -> None:
        torch.set_num_threads(self._num_cores)
        with torch.inference_mode(), self._recognizer.adapted.hooked():
            while batch := self._queue.take():
                self._on_batch(len(batch))
                self._serve(batch)

    def _serve(self, batch: Sequence[Waiting]) -> None:
        """Process the requests of a batch; if it fails, bisect it down to the failing requests."""
        try:
            for item, found in self._find(batch):
                if math.isfinite(found.nbest[0].score):
                    item.found.set_result(found)
                else:
                    item.found.set_exception(_not_finite(item))
            return
        except Exception as error:  # no request may end the thread
            failure = error
        left = [item for item in batch if not item.found.done()]
        if len(left) > 1:
            del failure  # which holds the tensors of the pass, and memory may have been what was lacking
            self._serve(left[: len(left) // 2])
            self._serve(left[len(left) // 2 :])
            return
        if not isinstance(failure, AdaptkitError):
            speaker = left[0].speaker if left else None
            _LOG.error("a request of speaker %r failed", speaker, exc_info=failure)
        if left:
            left[0].found.set_exception(failure)

    def _find(self, batch: Sequence[Waiting]) -> Iterator[tuple[Waiting, Found]]:
        """Recognise each row of a batch with its own Submodel, unless it has been dropped meanwhile."""
        taken = perf_counter()
        choices = [self._choose(item) for item in batch]
        routed = perf_counter()
        collated = _collate(batch)
        speakers = [
            item.speaker if choice is None else choice.task
            for item, choice in zip(batch, choices, strict=True)
        ]
        num_speakers = len({speaker for speaker in speakers if speaker is not None})
        submodels = self._recognizer.submodels
        with self._recognizer.weights(speakers) as slots:
            loaded = perf_counter()
            used = [None if slot == BASE_TASK else _used(submodels.submodel_in(slot)) for slot in slots]
            rows = replace(collated, task_ids=tuple(slots))
            found = self._recognizer.search_rows(
                rows,
                lambda row: not batch[row].is_dropped.is_set(),
                with_times=frozenset(row for row, item in enumerate(batch) if item.timed_sec is not None),
            )
            for row, paths in found:
                yield (
                    batch[row],
                    Found(
                        nbest=tuple(Alternative(text=self._text(path), score=path.score) for path in paths),
                        submodel=used[row],
                        queue_sec=taken - batch[row].since_sec,
                        route_sec=routed - taken,
                        load_sec=loaded - routed,
                        model_sec=perf_counter() - loaded,
                        batch_size=len(batch),
                        batch_speakers=num_speakers,
                        route=self._routing and _describe(self._routing.method, choices[row]),
                        tokens=tuple(paths[0].tokens),
                        words=self._words(batch[row], paths[0]),
                    ),
                )

    def _choose(self, item: Waiting) -> Choice | None:
        """Choose the Submodel of a request that names no known speaker; None if the request names one."""
        if not item.is_routed or item.is_dropped.is_set():
            return None
        return self._routing.choose(_collate([item]).to(self._recognizer.device), item.num_frames)

    def _text(self, path: BestPath) -> str:
        return self._tokens.decode(path.tokens)

    def _words(self, item: Waiting, path: BestPath) -> tuple[Word, ...] | None:
        """Return the words of the best hypothesis with their times, if the request asks for them."""
        if item.timed_sec is None:
            return None
        base = self._recognizer.base
        frame_sec = base.subsampling * base.frame_shift_ms / 1000
        return find_words(self._tokens, path, start_sec=0.0, frame_sec=frame_sec, end_sec=item.timed_sec)


def _collate(batch: Sequence[Waiting]) -> Batch:
    """Pad the rows into a batch without references; task ids are set once the slots are known."""
    nothing = torch.empty(0, dtype=torch.long)
    utterances = [Utterance(f"row{row}", item.speaker or "", "", "") for row, item in enumerate(batch)]
    return collate(
        [Example(u, BASE_TASK, item.inputs, nothing) for u, item in zip(utterances, batch, strict=True)]
    )


def _used(submodel: Submodel) -> SubmodelUsed:
    """Return the part of a Submodel's metadata that a response contains."""
    fingerprint = submodel.base_fingerprint[:_DIGITS]
    return SubmodelUsed(
        task=submodel.task, step=submodel.step, kind=submodel.kind, base_fingerprint=fingerprint
    )


def _describe(method: str, choice: Choice | None) -> Routed | None:
    """Describe a choice for a response."""
    if choice is None:
        return None
    return Routed(
        method=method,
        chosen=choice.name,
        score=choice.score,
        runner_up=choice.runner_up,
        runner_up_score=choice.runner_up_score,
    )


def _not_finite(item: Waiting) -> Refusal:
    whose = "the base model" if item.speaker is None else f"the Submodel of '{item.speaker}'"
    return Refusal(
        422,
        f"the score of this audio with {whose} is not finite; check the audio for silence and the weights "
        "for nan and inf",
    )
