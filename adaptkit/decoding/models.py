"""The model and search for decoding: a base model, alone or with adapters or Submodels."""

from dataclasses import KW_ONLY, dataclass, replace
from os.path import realpath
from pathlib import Path
from typing import Literal

from adaptkit import experiment
from adaptkit.base import archive
from adaptkit.errors import CheckpointError, ConfigError, listed
from adaptkit.experiment import Base, Experiment
from adaptkit.model.load import read_settings
from adaptkit.search_options import SearchRequest
from adaptkit.submodels.router import RouteOptions


@dataclass(frozen=True)
class ModelOptions:
    """The model and search for decoding."""

    exp: Path  # folder of an experiment; for the base model alone, also its folder or an experiment's yaml
    _: KW_ONLY
    base: Path | None = None  # folder of the base model, if it has moved
    overrides: tuple[str, ...] = ()  # of the settings; decoding uses only base.dir and base.prompt
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
        """Whether the weights are chosen by the audio, not by the name of the speaker."""
        return self.route.method != "own"


@dataclass(frozen=True)
class Source:
    """The base model named by the options, and the experiment whose yaml describes it, if any."""

    base: Base
    base_only: bool
    experiment: Experiment | None = None


def find_source(options: ModelOptions) -> Source:
    """Find the base model, and whether it is used alone."""
    if options.base_only and options.submodels is not None:
        raise ConfigError("--base-only leaves adapters out, but --submodels names some; use one of the two")
    if options.submodel_mb is not None and options.submodels is None:
        raise ConfigError("--submodel-mb limits the memory for --submodels, which is missing; set both")
    if archive.is_base(options.exp):
        if options.base is not None and realpath(options.base) != realpath(options.exp):
            raise ConfigError(
                f"{options.exp}: a base model, but --base names another, {options.base}; use one of the "
                "two, or name an experiment first to use its adapters"
            )
        base = experiment.base_in(options.exp, options.overrides)
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


def refuse_base(adapters: Path) -> None:
    """Refuse a base model in place of an experiment's adapters."""
    if archive.is_base(adapters):
        remedy = "name an experiment, or this one as the base model (--base) to use it without adapters"
        raise CheckpointError(f"{adapters}: a base model, where trained adapters are expected; {remedy}")


def choose_search(options: ModelOptions, source: Source) -> SearchRequest:
    """Return the request, with the experiment's search unless another is requested."""
    if options.search.search is not None or source.experiment is None:
        return options.search
    return replace(options.search, search=source.experiment.search)
