"""Open an experiment: its settings, its base model and its trained adapters."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from adaptkit import experiment
from adaptkit.adapters.api import AdapterStack
from adaptkit.base.checkpoint import BaseModel, load
from adaptkit.experiment import Experiment
from adaptkit.folders import RunFolder
from adaptkit.model import checkpoint
from adaptkit.model.checkpoint import AdapterFile

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedExperiment:
    """An experiment's settings, base model and trained adapters."""

    folder: RunFolder
    settings: Experiment
    base: BaseModel
    adapters: AdapterStack  # on the device of the base model, frozen
    file: AdapterFile


def load_experiment(
    exp: str | Path,
    *,
    base: str | Path | BaseModel | None = None,
    device: torch.device | str = "cpu",
    overrides: Sequence[str] = (),
) -> LoadedExperiment:
    """Load the base model and the adapters of an experiment folder.

    `base` is the folder of the base model if it has moved, or the base model if it has been loaded already;
    `overrides` change the experiment's settings. A missing or damaged file raises CheckpointError, as does a
    base model the adapters were not trained on.
    """
    folder = RunFolder(Path(exp))
    file = checkpoint.load(folder.adapter)  # before the base model, which takes seconds
    settings = experiment.load(folder.config, overrides)
    warn_of_unfinished(folder)
    if isinstance(base, BaseModel):
        loaded = base
    else:
        loaded = load(Path(base or settings.base.dir), device, prompt=settings.base.prompt)
    adapters = checkpoint.restore(file, loaded, folder.adapter)
    return LoadedExperiment(folder, settings, loaded, adapters, file)


def warn_of_unfinished(folder: RunFolder) -> None:
    """Warn of an experiment whose training was killed or is still running."""
    if folder.is_unfinished:
        what = "training has not finished, so these are its best weights so far"
        _LOG.warning("%s: %s; 'adaptkit train --resume' continues it", folder.path, what)


def load_base_of(exp: Path, *, base: Path | None = None, device: torch.device | str = "cpu") -> BaseModel:
    """Load the base model of an experiment's folder or yaml; `base` is its folder if it has moved."""
    described = read_settings(exp).base
    return load(base or described.dir, device, prompt=described.prompt)


def read_settings(exp: Path, overrides: Sequence[str] = ()) -> Experiment:
    """Read the settings of an experiment's folder or yaml, with `overrides`."""
    return experiment.load(exp if exp.is_file() else RunFolder(exp).config, overrides)
