"""Submodels for requests whose speaker is unknown: chosen by the audio, in the thread of the model."""

import logging
from pathlib import Path

from adaptkit.adapters.per_task import SHARED
from adaptkit.base.checkpoint import BaseModel
from adaptkit.data.batches import Batch
from adaptkit.errors import AdaptkitError, ConfigError, DataError, listed
from adaptkit.files import stamp
from adaptkit.model.adapted import AdaptedModel
from adaptkit.serve.schemas import Refusal
from adaptkit.submodels.cache import SubmodelCache
from adaptkit.submodels.embeddings import find_path, read_embeddings
from adaptkit.submodels.router import Choice, RouteOptions, Router

ROUTED = ("likelihood", "embedding")  # ways to choose a Submodel for an unknown speaker
_NEAREST = 8  # voices whose likelihoods are compared by default
_LOG = logging.getLogger(__name__)


class Routing:
    """Chooses Submodels with the embeddings in their folder, which are read again when the file changes.

    Speakers without an embedding are never chosen. Likelihoods are compared for the nearest voices and the
    shared adapter or the base model only, so that no request evicts all Submodels from memory.
    """

    def __init__(
        self,
        options: RouteOptions,
        base: BaseModel,
        cache: SubmodelCache,
        *,
        folder: Path,
        batch_frames: int,
        num_preloaded: int,
    ):
        _refuse_crowded(options, cache, num_preloaded)
        self.method: str = options.method
        self._options, self._base, self._cache = options, base, cache
        self._folder, self._path, self._batch_frames = folder, find_path(folder), batch_frames
        self._stamp = stamp(self._path)
        self._embeddings = read_embeddings(folder, base)
        self._missing: list[str] = []
        self._router: Router | None = None
        self._adapted: AdaptedModel | None = None
        self._warn_of_missing()

    def attach(self, adapted: AdaptedModel) -> None:
        """Set the model that compares; before any choice."""
        self._adapted = adapted
        self._router = self._new_router()

    def choose(self, row: Batch, num_frames: int) -> Choice:
        """Choose for a batch of one request; refuse one that fits no weights."""
        try:
            return self._router.choose(row, num_frames, self._cache.known())
        except DataError as error:
            what = "the score of this audio is not finite with any Submodel"
            raise Refusal(422, f"{what}; check the audio for silence and the weights for nan") from error

    def refresh(self) -> None:
        """Take over embeddings that have changed; those that cannot be read leave the earlier ones in use."""
        found = stamp(self._path)
        if found != self._stamp:
            self._stamp = found
            try:
                self._embeddings = read_embeddings(self._folder, self._base)
                self._router = self._new_router()
                _LOG.info("%s: read again", self._path)
            except AdaptkitError as error:
                _LOG.warning("%s; the earlier embeddings stay in use", error)
        self._warn_of_missing()

    def _new_router(self) -> Router:
        return Router(
            self._adapted,
            self._options,
            batch_frames=self._batch_frames,
            submodels=self._cache,
            embeddings=self._embeddings,
        )

    def _warn_of_missing(self) -> None:
        missing = sorted(set(self._cache.known()) - {SHARED, *self._embeddings.tasks})
        if missing and missing != self._missing:
            _LOG.warning(
                "%s: %s have no embedding and are never chosen for unknown speakers; 'adaptkit submodels "
                "embed' writes them",
                *(self._path, listed(missing)),
            )
        self._missing = missing


def new_routing(
    unknown: str,
    cache: SubmodelCache,
    base: BaseModel,
    *,
    folder: Path,
    nearest: int | None,
    batch_frames: int,
    num_preloaded: int,
) -> Routing | None:
    """Return what chooses Submodels for unknown speakers, treated as `unknown` says; None if nothing does."""
    if unknown == "shared" and SHARED not in cache.known():
        raise ConfigError(
            f"--unknown-speaker shared: {folder} has no Submodel '{SHARED}'; use '--unknown-speaker base', "
            "or Submodels of an experiment with a speaker of that name"
        )
    if nearest is not None and unknown != "likelihood":
        raise ConfigError(f"--route-nearest: no effect with --unknown-speaker {unknown}; omit it")
    if unknown not in ROUTED:
        return None
    options = RouteOptions(unknown, nearest=(nearest or _NEAREST) if unknown == "likelihood" else None)
    return Routing(
        options, base, cache, folder=folder, batch_frames=batch_frames, num_preloaded=num_preloaded
    )


def _refuse_crowded(options: RouteOptions, cache: SubmodelCache, num_preloaded: int) -> None:
    """Refuse to compare more Submodels than are in memory at once, the shared one among them."""
    num_compared = 1 if options.nearest is None else options.nearest + 1
    num_free = cache.num_slots - num_preloaded
    if num_compared <= num_free:
        return
    fewer = f", or set --route-nearest to {num_free - 1}" if num_free > 1 else ""
    raise ConfigError(
        f"--unknown-speaker {options.method}: compares {num_compared} Submodels of {cache.bytes_each:,} "
        f"bytes beside {num_preloaded} preloaded, but only {cache.num_slots} fit in memory; raise "
        f"--submodel-mb to {cache.megabytes(num_compared + num_preloaded)}{fewer}"
    )
