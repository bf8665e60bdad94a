"""Adapter files: the weights of an experiment's adapters and the metadata to rebuild them (see `tensors`)."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from torch import Tensor

from adaptkit import config as configuration
from adaptkit.adapters import api
from adaptkit.adapters.api import AdapterConfig, AdapterStack
from adaptkit.base import owsm
from adaptkit.base.checkpoint import BaseModel
from adaptkit.errors import CheckpointError, ConfigError, listed, shell_word
from adaptkit.tensors import load_strictly, read_tensors, total_bytes, write_tensors

_FORMAT = 1
_SLACK = 1 << 20  # bytes that adapters may take in addition to their weights
_MOST_ADAPTERS = 100


@dataclass(frozen=True)
class AdapterFile:
    """The contents of an adapter file."""

    adapters: tuple[AdapterConfig, ...]
    tasks: tuple[str, ...]  # position = task id
    base_fingerprint: str
    step: int  # optimizer steps of the run; with early stopping per task, a task's weights may be older
    weights: Mapping[str, Tensor]
    unimproved: tuple[str, ...] = ()  # tasks that keep the start's weights: no validation was better

    @property
    def kind(self) -> str:
        """The adapter types in the order they act, joined by `+`."""
        return "+".join(entry.kind for entry in self.adapters)


def save(
    path: Path,
    stack: AdapterStack,
    base_fingerprint: str,
    step: int,
    weights: Mapping[str, Tensor],
    *,
    unimproved: Sequence[str] = (),
) -> None:
    """Write an adapter file: weights of `stack` (its own or an average) and the metadata to rebuild it."""
    header = {
        "format": _FORMAT,
        "kind": stack.kind,
        "adapters": [configuration.dump(entry) for entry in stack.configs],
        "tasks": list(stack.tasks),
        "base_fingerprint": base_fingerprint,
        "step": step,
        "unimproved": list(unimproved),
        "versions": {name: metadata.version(name) for name in ("adaptkit", "torch", "espnet")},
    }
    write_tensors(path, weights, header)


def load(path: Path) -> AdapterFile:
    """Read an adapter file; a truncated or unrelated file raises CheckpointError with the reason."""
    weights, header = read_tensors(path)
    if "holds" in header:
        raise CheckpointError(
            f"{path}: of a Submodel, not of an experiment; 'adaptkit submodels pack "
            f"{shell_word(path.parent)} EXP --base DIR' packs the Submodels of a folder into one"
        )
    if header.get("format") != _FORMAT:
        raise CheckpointError(f"{path}: an adapter file of format {header.get('format')}, not {_FORMAT}")
    try:
        _check_header(header)
        return AdapterFile(
            adapters=tuple(api.read_config(entry) for entry in header["adapters"]),
            tasks=tuple(header["tasks"]),
            base_fingerprint=header["base_fingerprint"],
            step=header["step"],
            weights=weights,
            unimproved=tuple(header.get("unimproved", ())),  # earlier files have none
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: the header of the adapter file is incomplete: {error}") from error


def _check_header(header: Mapping[str, Any]) -> None:
    """Refuse a header with values of other types than `save` writes, or with a task named twice."""
    tasks, entries = header["tasks"], header["adapters"]
    if not isinstance(tasks, list) or not all(isinstance(task, str) for task in tasks):
        raise TypeError("tasks: expected a list of names")
    if len(set(tasks)) < len(tasks):
        twice = [task for task, count in Counter(tasks).items() if count > 1]
        raise ValueError(f"tasks: named twice: {listed(twice)}")
    if not isinstance(entries, list) or not 0 < len(entries) <= _MOST_ADAPTERS:
        raise TypeError(f"adapters: expected a list of up to {_MOST_ADAPTERS}")
    if not isinstance(header["base_fingerprint"], str) or type(header["step"]) is not int:
        raise TypeError("expected text in base_fingerprint and a number in step")


def restore(file: AdapterFile, base: BaseModel, path: Path) -> AdapterStack:
    """Build the adapters of a file on the base model they were trained on; refuse any other base model."""
    if file.base_fingerprint != base.fingerprint:
        raise CheckpointError(
            f"{path}: trained on base model {file.base_fingerprint}, but {base.path} is {base.fingerprint}; "
            + owsm.remedy_of(
                file.base_fingerprint, base.fingerprint, "set --base to the folder of the right one"
            )
        )
    most_bytes = _SLACK + 4 * total_bytes(file.weights)
    try:
        stack = api.build(file.adapters, base.sites, file.tasks, seed=None, most_bytes=most_bytes)
    except ConfigError as error:
        raise CheckpointError(
            f"{path}: its header does not fit its weights or the base model: {error}; train or copy it again"
        ) from error
    load_strictly(stack, file.weights, path)
    device = next(base.model.parameters()).device
    return stack.to(device).eval().requires_grad_(False)
