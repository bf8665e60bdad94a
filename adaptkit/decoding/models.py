"""Open what decodes: a base model, alone or with adapters or Submodels, together with a search."""

import logging
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import KW_ONLY, dataclass, replace
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
from adaptkit.decoding.batches import recognise_with_submodels
from adaptkit.errors import ConfigError, listed
from adaptkit.experiment import Base
from adaptkit.files import checksum
from adaptkit.folders import RunFolder
from adaptkit.model import checkpoint
from adaptkit.model.adapted import AdaptedModel
from adaptkit.model.load import find_base, warn_of_unfinished
from adaptkit.model.recognise import Hypothesis, recognise
from adaptkit.search_options import SearchRequest
from adaptkit.submodels.cache import SubmodelCache

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


@dataclass(frozen=True)
class Decoder:
    """A base model, alone, with adapters, or with the slots of Submodels as adapters, and a search."""

    options: ModelOptions
    searcher: Searcher
    base: BaseModel
    adapters: AdapterStack | None = None
    submodels: SubmodelCache | None = None
    adapter_checksum: int | None = None

    def recognise(self, examples: Examples) -> list[Hypothesis]:
        """Recognise every utterance, in no particular order; one without encoder frames is silence."""
        examples = _number_tasks(examples, self)
        short = find_frameless(examples)
        adapted = AdaptedModel(self.base, self.adapters, is_frozen=True).eval()
        with adapted.hooked():
            found = self._recognise(adapted, examples.without(short))
        return found + [Hypothesis(utt_id, "", 0.0, (BestPath([], 0.0),)) for utt_id in short]

    def _recognise(self, adapted: AdaptedModel, examples: Examples) -> list[Hypothesis]:
        size, searcher = self.options.batch_frames, self.searcher
        if self.submodels is None:
            return recognise(adapted, examples, size, searcher=searcher)
        return recognise_with_submodels(adapted, examples, size, self.submodels, searcher=searcher)


@contextmanager
def opened(
    options: ModelOptions, read: Callable[[BaseModel], Examples], *, device: str
) -> Iterator[tuple[Decoder, Examples]]:
    """Load the model, and what `read` gives for it; there are at most as many slots of Submodels as tasks."""
    described, base_only = find_model(options)
    adapter_path = RunFolder(options.exp).adapter
    has_file = not base_only and options.submodels is None
    adapter_checksum = checksum(adapter_path) if has_file and adapter_path.is_file() else None
    file = checkpoint.load(adapter_path) if has_file else None
    if has_file:
        warn_of_unfinished(RunFolder(options.exp))
    base = base_checkpoint.load(described.dir, device, prompt=described.prompt)
    adapters = None if file is None else checkpoint.restore(file, base, adapter_path)
    examples = read(base)
    searcher = new_searcher(base, _find_search(options))
    if options.submodels is None:
        yield Decoder(options, searcher, base, adapters, adapter_checksum=adapter_checksum), examples
        return
    budget_bytes = round((options.submodel_mb or _SUBMODEL_MB) * 2**20)
    most_slots = len(examples.data.tasks)
    cache = SubmodelCache(options.submodels, base, budget_bytes=budget_bytes, most_slots=most_slots)
    with closing(cache) as submodels:
        yield Decoder(options, searcher, base, submodels.stack, submodels), examples
        stats = submodels.stats()
        message = "%s: %d Submodels fit in memory; %d hits, %d misses, %d evictions"
        _LOG.info(message, options.submodels, stats.num_slots, stats.hits, stats.misses, stats.evictions)


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


def _find_search(options: ModelOptions) -> SearchRequest:
    """Return the request with the search of the experiment, unless another is asked for."""
    path = options.exp if options.exp.is_file() else RunFolder(options.exp).config
    if options.search.search is not None or archive.is_base(options.exp) or not path.is_file():
        return options.search
    return replace(options.search, search=experiment.load(path, options.overrides).search)


def find_model(options: ModelOptions) -> tuple[Base, bool]:
    """Return the settings of the base model, and whether to decode with the base model alone."""
    if options.base_only and options.submodels is not None:
        raise ConfigError("--base-only leaves adapters out, but --submodels names some; use one of the two")
    if options.submodel_mb is not None and options.submodels is None:
        raise ConfigError("--submodel-mb is the memory for --submodels, which is missing; set both")
    if archive.is_base(options.exp):
        return experiment.base_in(options.base or options.exp, options.overrides), options.submodels is None
    others = [word for word in options.overrides if not word.startswith(("base.", "base="))]
    if others:
        raise ConfigError(
            f"--set {listed(others)}: no effect on decoding, which takes base.dir and base.prompt; omit it"
        )
    if options.base is not None and any(not word.startswith("base.prompt") for word in options.overrides):
        raise ConfigError("--base and --set both say which base model to use; use one of the two")
    found = find_base(options.exp, options.overrides)
    return found.model_copy(update={"dir": options.base or found.dir}), options.base_only
