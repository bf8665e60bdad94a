"""Choose the weights for an utterance of an unknown speaker from the utterance itself.

`likelihood` chooses the weights under which the model's own best text has the highest likelihood (see
`base.search.likelihood`), `embedding` those of the speaker with the nearest voice (`embeddings`), or the
shared adapter if no voice is near. `likelihood` may be limited to the nearest voices; with a shared adapter,
it is then limited to voices that are near. Neither uses a text or other utterances. docs/routing.md has
figures.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from adaptkit.adapters.api import AdapterStack
from adaptkit.adapters.per_task import SHARED
from adaptkit.data.batches import Batch
from adaptkit.data.dataset import BASE_NAME, BASE_TASK
from adaptkit.errors import ConfigError, DataError
from adaptkit.model.adapted import AdaptedModel
from adaptkit.model.embedding import embed
from adaptkit.model.recognise import halving
from adaptkit.submodels.cache import SubmodelCache
from adaptkit.submodels.embeddings import SpeakerEmbeddings

Method = Literal["own", "shared", "likelihood", "embedding"]


@dataclass(frozen=True)
class RouteOptions:
    """How the weights for an utterance are chosen."""

    method: Method = "own"  # own: the weights of the named speaker
    by: Literal["utterance", "speaker"] = "utterance"  # speaker: their first utterance decides for all
    nearest: int | None = None  # number of speakers whose likelihood is computed; None: all
    without_own: bool = False  # never use the speaker's own weights, as if unknown

    @property
    def uses_embeddings(self) -> bool:
        """Whether the embeddings of the speakers are needed."""
        return self.method == "embedding" or self.nearest is not None

    def __post_init__(self) -> None:
        if self.nearest is not None and self.method != "likelihood":
            raise ConfigError(f"--route-nearest: no effect with --route {self.method}; omit it")
        if self.method in ("own", "shared") and (self.by != "utterance" or self.without_own):
            option = "--route-without-own" if self.without_own else "--route-by"
            raise ConfigError(f"{option}: no effect with --route {self.method}; omit it")


@dataclass(frozen=True)
class Choice:
    """The weights chosen for an utterance: those of a task, or `BASE_NAME` for the base model alone."""

    name: str
    score: float | None = None  # log-likelihood per frame, or cosine; for a fallback, the threshold
    runner_up: str | None = None
    runner_up_score: float | None = None

    @property
    def task(self) -> str | None:
        """The task; None for the base model alone."""
        return None if self.name == BASE_NAME else self.name


class Router:
    """Chooses weights for one utterance at a time, so that a choice does not depend on other utterances.

    The model must be in `hooked()`. `submodels` is the cache of its adapters, if they are Submodels. Several
    candidates share a pass, which has at most `batch_frames` feature frames and is halved if it does not fit
    in memory.
    """

    def __init__(
        self,
        adapted: AdaptedModel,
        options: RouteOptions,
        *,
        batch_frames: int,
        submodels: SubmodelCache | None = None,
        embeddings: SpeakerEmbeddings | None = None,
    ):
        self._adapted, self._options, self._batch_frames = adapted, options, batch_frames
        self._submodels, self._embeddings = submodels, embeddings
        self._places = {} if embeddings is None else {task: k for k, task in enumerate(embeddings.tasks)}

    def choose(
        self, row: Batch, num_frames: int, known: Sequence[str], *, without: str | None = None
    ) -> Choice:
        """Choose among the tasks `known`, or the base model if they have no shared adapter.

        `row` is a batch of one utterance of `num_frames` feature frames. The weights of the task `without`
        are left out.
        """
        if self._options.method == "shared":
            return Choice(SHARED)
        speakers = [task for task in known if task not in (SHARED, without)]
        near = self._compare(row, speakers) if self._options.uses_embeddings else {}
        if self._options.method == "embedding":
            return _best(self._with_fallback(near, has_shared=SHARED in known), row)
        if self._options.nearest is not None:
            lowest = self._embeddings.threshold if SHARED in known else -math.inf
            speakers = sorted((t for t in near if near[t] >= lowest), key=lambda task: -near[task])
        fallback = SHARED if SHARED in known else BASE_NAME
        names = [*speakers[: self._options.nearest], fallback]
        return _best(self._measure(row, num_frames, names), row)

    def _compare(self, row: Batch, speakers: Sequence[str]) -> dict[str, float]:
        """Return the cosine of an utterance with each speaker that has an embedding."""
        cosines = self._embeddings.compare(embed(self._adapted, row, self._embeddings.block)).tolist()
        return {task: cosines[self._places[task]] for task in speakers if task in self._places}

    def _with_fallback(self, near: Mapping[str, float], *, has_shared: bool) -> dict[str, float]:
        """Return the cosines and, for the shared adapter, the one below which a voice is not near.

        The base model is not a fallback: it was worse than the nearest voice, even for unknown voices.
        """
        if has_shared:
            return {**near, SHARED: self._embeddings.threshold}
        return dict(near) or {BASE_NAME: self._embeddings.threshold}

    def _measure(self, row: Batch, num_frames: int, names: Sequence[str]) -> dict[str, float]:
        """Return the likelihood of an utterance with the weights of each name.

        If adapters change weights of the encoder, candidates cannot share a pass.
        """
        is_mixed = self._adapted.adapters.mixes_tasks
        size = max(1, self._batch_frames // num_frames) if is_mixed else 1
        row, found = self._adapted.read_taps(row, for_loss=False), {}
        for start in range(0, len(names), size):
            part = names[start : start + size]
            tasks = [None if name == BASE_NAME else name for name in part]
            with holding(self._adapted.adapters, self._submodels, tasks) as task_ids:
                likelihoods = halving(row.repeated(task_ids), self._adapted.own_likelihoods)
            found |= zip(part, likelihoods, strict=True)
        return found


@contextmanager
def holding(
    adapters: AdapterStack | None, submodels: SubmodelCache | None, tasks: Sequence[str | None]
) -> Iterator[list[int]]:
    """Yield the id of each task, -1 for None (the base model alone); Submodels stay in memory inside."""
    if submodels is not None:
        with submodels.using(tasks) as slots:
            yield slots
        return
    numbers = {} if adapters is None else {task: index for index, task in enumerate(adapters.tasks)}
    yield [BASE_TASK if task is None else numbers[task] for task in tasks]


def _best(scores: Mapping[str, float], row: Batch) -> Choice:
    """Choose the highest score, the first of equal ones; a score that is not finite is never chosen."""
    ranked = sorted((name for name in scores if math.isfinite(scores[name])), key=lambda name: -scores[name])
    if not ranked:
        raise DataError(
            f"{row.utt_ids[0]}: not finite with any speaker's weights; check its audio and features for nan "
            "and inf"
        )
    best, *others = ranked
    second = others[0] if others else None
    return Choice(best, scores[best], second, None if second is None else scores[second])
