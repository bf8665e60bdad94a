"""Open what decodes: a base model, alone or with adapters or Submodels, together with a search."""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import KW_ONLY, dataclass, field, replace
from pathlib import Path
from typing import Literal

from adaptkit import experiment
from adaptkit.adapters.api import AdapterStack
from adaptkit.adapters.per_task import SHARED
from adaptkit.base import archive
from adaptkit.base import checkpoint as base_checkpoint
from adaptkit.base.checkpoint import BaseModel
from adaptkit.base.search.choose import new_searcher
from adaptkit.base.search.paths import BestPath
from adaptkit.base.search.searcher import Searcher
from adaptkit.data.dataset import Examples, find_frameless, number_tasks
from adaptkit.decoding import routing
from adaptkit.decoding.batches import recognise_with_submodels
from adaptkit.errors import ConfigError, listed
from adaptkit.experiment import Base, Experiment
from adaptkit.files import checksum
from adaptkit.folders import RunFolder
from adaptkit.model import checkpoint
from adaptkit.model.adapted import AdaptedModel
from adaptkit.model.load import read_settings, warn_of_unfinished
from adaptkit.model.recognise import Hypothesis, recognise
from adaptkit.search_options import SearchRequest
from adaptkit.submodels.cache import SubmodelCache
from adaptkit.submodels.compatibility import find_files
from adaptkit.submodels.router import Choice, RouteOptions
from adaptkit.submodels.shared import with_shared

_SUBMODEL_MB = 1024
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelOptions:
    """Which model decodes, and how."""

    exp: Path  # folder of an experiment; for the base model alone, also its folder or an experiment's yaml
    _: KW_ONLY
    base: Path | None = None  # folder of the base model, if it has moved
    overrides: tuple[str, ...] = ()  # of the settings, of which decoding uses base.dir and base.prompt
    base_only: bool = False
    unknown_speaker: Literal["error", "base"] = "error"
    batch_frames: int = 12000  # feature frames per batch, padding included
    allow_pipes: bool = False
    submodels: Path | None = None  # folder of Submodels, in place of the adapters of `exp`
    submodel_mb: float | None = None  # memory for Submodels in MiB; None for the default
    search: SearchRequest = SearchRequest()
    route: RouteOptions = RouteOptions()

    @property
    def is_routed(self) -> bool:
        """Whether the weights are chosen by the utterance, not by the name of its speaker."""
        return self.route.method != "own"


@dataclass(frozen=True)
class Source:
    """What options name: the base model, and the experiment whose yaml describes it, if one does."""

    base: Base
    base_only: bool
    experiment: Experiment | None = None


@dataclass(frozen=True)
class Decoded:
    """The hypotheses of a data set, in no particular order, and what was chosen if they were routed."""

    hypotheses: list[Hypothesis]
    chosen: Mapping[str, Choice] = field(default_factory=dict)  # by utterance


@dataclass(frozen=True)
class Decoder:
    """A base model, alone, with adapters, or with the slots of Submodels as adapters, and a search."""

    options: ModelOptions
    searcher: Searcher
    base: BaseModel
    adapters: AdapterStack | None = None
    submodels: SubmodelCache | None = None
    adapter_checksum: int | None = None

    @property
    def known(self) -> list[str]:
        """The tasks that have weights of their own here."""
        if self.submodels is not None:
            return self.submodels.known()
        return [] if self.adapters is None else list(self.adapters.tasks)

    def recognise(self, examples: Examples) -> Decoded:
        """Recognise every utterance; one without encoder frames is silence."""
        is_routed, chosen = self.options.is_routed, {}
        examples = examples if is_routed else _number_tasks(examples, self)
        short = find_frameless(examples)
        adapted = AdaptedModel(self.base, self.adapters, is_frozen=True).eval()
        examples = examples.without(short)
        with adapted.hooked():
            if is_routed:
                chosen = self._route(adapted, examples)
                examples = routing.assign(examples, chosen, self.known)
            found = self._recognise(adapted, examples)
        return Decoded(found + [Hypothesis(name, "", 0.0, (BestPath([], 0.0),)) for name in short], chosen)

    def _route(self, adapted: AdaptedModel, examples: Examples) -> dict[str, Choice]:
        options = self.options
        return routing.route(
            adapted,
            examples,
            options.route,
            folder=options.submodels or options.exp,
            batch_frames=options.batch_frames,
            submodels=self.submodels,
        )

    def _recognise(self, adapted: AdaptedModel, examples: Examples) -> list[Hypothesis]:
        size, searcher = self.options.batch_frames, self.searcher
        if self.submodels is None:
            return recognise(adapted, examples, size, searcher=searcher)
        return recognise_with_submodels(adapted, examples, size, self.submodels, searcher=searcher)


@contextmanager
def opened(
    options: ModelOptions, source: Source, read: Callable[[BaseModel], Examples], *, device: str
) -> Iterator[tuple[Decoder, Examples]]:
    """Load the model, and what `read` gives for it; there are at most as many slots of Submodels as tasks."""
    adapter_path = RunFolder(options.exp).adapter
    has_file = not source.base_only and options.submodels is None
    adapter_checksum = checksum(adapter_path) if has_file and adapter_path.is_file() else None
    file = checkpoint.load(adapter_path) if has_file else None
    if has_file:
        warn_of_unfinished(RunFolder(options.exp))
    base = base_checkpoint.load(source.base.dir, device, prompt=source.base.prompt)
    adapters = None if file is None else checkpoint.restore(file, base, adapter_path)
    examples = read(base)
    searcher = new_searcher(base, _choose_search(options, source))
    if options.is_routed:
        _refuse_unroutable(options, adapters)
        adapters = None if adapters is None else with_shared(adapters, options.exp, base)
    if options.submodels is None:
        yield Decoder(options, searcher, base, adapters, adapter_checksum=adapter_checksum), examples
        return
    budget_bytes = round((options.submodel_mb or _SUBMODEL_MB) * 2**20)
    most_slots = len(find_files(options.submodels) if options.is_routed else examples.data.tasks)
    cache = SubmodelCache(options.submodels, base, budget_bytes=budget_bytes, most_slots=most_slots)
    with closing(cache) as submodels:
        yield Decoder(options, searcher, base, submodels.stack, submodels), examples
        stats = submodels.stats()
        message = "%s: %d Submodels fit in memory; %d hits, %d misses, %d evictions"
        _LOG.info(message, options.submodels, stats.num_slots, stats.hits, stats.misses, stats.evictions)


def _refuse_unroutable(options: ModelOptions, adapters: AdapterStack | None) -> None:
    """Refuse to choose where there is nothing to choose from."""
    if adapters is None and options.submodels is None:
        raise ConfigError(
            f"--route {options.route.method}: {options.exp} is decoded without adapters, of which to choose; "
            "name an experiment with adapters, or --submodels, or omit --route"
        )
    if adapters is not None and not adapters.num_per_task:
        raise ConfigError(
            f"--route {options.route.method}: the adapters of {options.exp} are the same for all speakers; "
            "omit --route"
        )
    if options.unknown_speaker != "error":
        raise ConfigError(
            f"--unknown-speaker {options.unknown_speaker}: no effect with --route {options.route.method}, "
            "which does not ask who speaks; omit it"
        )


def _number_tasks(examples: Examples, model: Decoder) -> Examples:
    """Assign task ids to a data set; refuse damaged Submodels and, if so asked, unknown tasks."""
    unknown = model.options.unknown_speaker
    if model.adapters is None:
        return examples
    if model.submodels is not None:
        has_all = set(examples.data.tasks) <= set(model.submodels.known())
        model.submodels.check([*examples.data.tasks, *([] if has_all or unknown == "base" else [SHARED])])
    tasks = model.adapters.tasks if model.submodels is None else model.submodels.known()
    is_everyones = model.submodels is None and not model.adapters.num_per_task
    if is_everyones and unknown == "error":
        return replace(examples, task_ids=dict.fromkeys(examples.data.tasks, 0))
    return replace(examples, task_ids=number_tasks(examples.data, tasks, unknown=unknown))


def _choose_search(options: ModelOptions, source: Source) -> SearchRequest:
    """Return the request with the search of the experiment, unless another is asked for."""
    if options.search.search is not None or source.experiment is None:
        return options.search
    return replace(options.search, search=source.experiment.search)


def find_source(options: ModelOptions) -> Source:
    """Find the base model, and whether it decodes alone."""
    if options.base_only and options.submodels is not None:
        raise ConfigError("--base-only leaves adapters out, but --submodels names some; use one of the two")
    if options.submodel_mb is not None and options.submodels is None:
        raise ConfigError("--submodel-mb is the memory for --submodels, which is missing; set both")
    if archive.is_base(options.exp):
        base = experiment.base_in(options.base or options.exp, options.overrides)
        return Source(base, base_only=options.submodels is None)
    others = [word for word in options.overrides if not word.startswith(("base.", "base="))]
    if others:
        raise ConfigError(
            f"--set {listed(others)}: no effect on decoding, which takes base.dir and base.prompt; omit it"
        )
    if options.base is not None and any(not word.startswith("base.prompt") for word in options.overrides):
        raise ConfigError("--base and --set both say which base model to use; use one of the two")
    settings = read_settings(options.exp, options.overrides)
    base = settings.base.model_copy(update={"dir": options.base or settings.base.dir})
    return Source(base, options.base_only, settings)
