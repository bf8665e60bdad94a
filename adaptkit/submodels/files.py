"""Submodel files: the per-task weights of an experiment's adapters, and the weights that tasks share.

Biadsy et al., A scalable model specialization framework for training and inference using Submodels and its
application to speech model personalization, Interspeech 2022, arXiv:2203.12559.

A Submodel is index k of every per-task parameter, so that adapter types need no further code for it. The
Submodels of a folder have the configuration, the base model and the shared weights in common; the latter are
stored once, in `+shared.safetensors`. Files carry a checksum (see adaptkit.tensors) to detect damage.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from adaptkit import config
from adaptkit.adapters import api
from adaptkit.adapters.api import AdapterConfig
from adaptkit.adapters.describe import describe_difference
from adaptkit.errors import AdaptkitError, CheckpointError
from adaptkit.files import require_regular
from adaptkit.tensors import hash_tensors, read_tensors, write_tensors

SHARED_FILE = "+shared.safetensors"  # not a task's file: in those, + occurs only before a digest
SPEAKERS_FILE = "+speakers.safetensors"  # embeddings of the speakers; see `embeddings`
SUFFIX = ".safetensors"
_FORMAT = 1
_LONGEST = 180  # bytes of a task in a file name; file systems allow 255, and partial files add a suffix
_MALFORMED = (KeyError, TypeError, ValueError, RecursionError)  # raised by unrelated headers
_MADE_BY = "'adaptkit submodels export' writes it"


@dataclass(frozen=True)
class Submodel:
    """The weights of one task, and the base model and shared weights that they fit."""

    task: str
    adapters: tuple[AdapterConfig, ...]
    base_fingerprint: str
    shared: str  # fingerprint of the shared weights it was trained with
    step: int  # number of optimizer steps of its training
    weights: Mapping[str, Tensor]  # by the names of `task_parameters`, without the task axis
    unimproved: bool = False  # whether these are the start's weights: no validation was better

    @property
    def kind(self) -> str:
        """The adapter types in the order they act, joined by `+`."""
        return "+".join(entry.kind for entry in self.adapters)

    @property
    def num_parameters(self) -> int:
        """The number of weights."""
        return sum(weight.numel() for weight in self.weights.values())


@dataclass(frozen=True)
class Shared:
    """The configuration, base model and weights that all Submodels of a folder share."""

    adapters: tuple[AdapterConfig, ...]
    base_fingerprint: str
    weights: Mapping[str, Tensor]  # shared by all tasks

    @cached_property
    def fingerprint(self) -> str:
        """The hash of the weights, 32 hexadecimal digits."""
        return hash_tensors(self.weights)

    def difference(self, other: "Shared | Submodel") -> str:
        """Describe why `other` is not compatible; empty if it is."""
        if other.base_fingerprint != self.base_fingerprint:
            return f"for base model {other.base_fingerprint}, not {self.base_fingerprint}"
        if other.adapters != self.adapters:
            return describe_difference(other.adapters, self.adapters)
        theirs = other.shared if isinstance(other, Submodel) else other.fingerprint
        return "" if theirs == self.fingerprint else f"with shared weights {theirs}, not {self.fingerprint}"


def file_name(task: str) -> str:
    """Return a task's file name: percent-encoded, with a digest if it is too long or has capitals.

    >>> file_name("spk1/a b")
    'spk1%2Fa%20b.safetensors'
    """
    quoted = quote(task, safe="", errors="surrogatepass")
    if quoted.startswith("."):  # would be hidden, as partial files are
        quoted = "%2E" + quoted[1:]
    if quoted and len(quoted) <= _LONGEST and not re.search("[A-Z]", task):
        return quoted + SUFFIX
    digest = hashlib.blake2b(task.encode(errors="surrogatepass"), digest_size=8).hexdigest()
    return f"{quoted[:_LONGEST]}+{digest}{SUFFIX}"


def name_task(path: Path) -> str:
    """Return the task that a file name encodes, or the file name itself if it encodes none."""
    task = unquote(path.stem)
    return task if file_name(task) == path.name else path.name


def write(folder: Path, submodel: Submodel) -> Path:
    """Write a Submodel to a folder, atomically; return its path."""
    path = folder / file_name(submodel.task)
    header = {
        "format": _FORMAT,
        "holds": "submodel",
        "task": submodel.task,
        "kind": submodel.kind,
        "adapters": _dump(submodel.adapters),
        "base_fingerprint": submodel.base_fingerprint,
        "shared": submodel.shared,
        "step": submodel.step,
        "unimproved": submodel.unimproved,
    }
    write_tensors(path, submodel.weights, header)
    return path


def read(path: Path) -> Submodel:
    """Read a Submodel; a damaged or unrelated file raises CheckpointError with the reason."""
    header, weights = _read(path, "submodel")
    return replace(_parse(path, header), weights=weights)


def read_head(path: Path) -> tuple[Submodel, int]:
    """Read a Submodel without its weights, and their number; damaged weights go unnoticed."""
    _require_file(path)  # since safe_open would wait for the writer of a FIFO
    try:
        with safe_open(path, framework="np") as file:
            header = dict(json.loads(file.metadata()["adaptkit"]))
            shapes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, *_MALFORMED):
        header, weights = _read(path, "submodel")  # raises the reason
        return _parse(path, header), sum(weight.numel() for weight in weights.values())
    _check_format(path, header, "submodel")
    return _parse(path, header), sum(torch.Size(shape).numel() for shape in shapes)


def write_shared(folder: Path, shared: Shared) -> Path:
    """Write the shared parts of a folder of Submodels, atomically; return the path."""
    path = folder / SHARED_FILE
    header = {
        "format": _FORMAT,
        "holds": "shared",
        "adapters": _dump(shared.adapters),
        "base_fingerprint": shared.base_fingerprint,
    }
    write_tensors(path, shared.weights, header)
    return path


def read_shared(folder: Path) -> Shared:
    """Read the shared parts of a folder of Submodels; a missing or damaged file is a CheckpointError."""
    path = folder / SHARED_FILE
    header, weights = _read(path, "shared")
    try:
        return Shared(_read_configs(json.dumps(header["adapters"])), header["base_fingerprint"], weights)
    except _MALFORMED as error:
        raise CheckpointError(
            f"{path}: the header is incomplete: {error}; export into a new folder"
        ) from error


def _read(path: Path, holds: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read header and weights."""
    _require_file(path)
    weights, header = read_tensors(path)
    _check_format(path, header, holds)
    return header, weights


def _require_file(path: Path) -> None:
    """Refuse a file that is missing or not a regular file."""
    if not os.path.lexists(path):
        raise CheckpointError(f"{path}: no such file; {_MADE_BY}")
    try:
        require_regular(path)
    except AdaptkitError as error:
        raise CheckpointError(str(error)) from error


def _check_format(path: Path, header: Mapping[str, Any], holds: str) -> None:
    if header.get("holds") != holds:
        what = "a Submodel" if holds == "submodel" else "the shared weights of Submodels"
        raise CheckpointError(f"{path}: written by adaptkit, but not {what}; {_MADE_BY}")
    if header.get("format") != _FORMAT:
        raise CheckpointError(f"{path}: has format {header.get('format')}, not {_FORMAT}; export it again")


def _parse(path: Path, header: Mapping[str, Any]) -> Submodel:
    """Check a header and return its Submodel without weights."""
    try:
        words = [header[name] for name in ("task", "base_fingerprint", "shared")]
        if not all(isinstance(word, str) for word in words) or not isinstance(header["step"], int):
            raise TypeError("expected text in task, base_fingerprint and shared, and a number in step")
        task, base_fingerprint, shared = words
        adapters = _read_configs(json.dumps(header["adapters"]))
        unimproved = header.get("unimproved") is True  # earlier files do not say
        return Submodel(task, adapters, base_fingerprint, shared, header["step"], {}, unimproved)
    except _MALFORMED as error:
        raise CheckpointError(f"{path}: the header is incomplete: {error}; export it again") from error


@lru_cache(maxsize=64)
def _read_configs(text: str) -> tuple[AdapterConfig, ...]:
    """Check the json of adapters; cached, since thousands of files have the same."""
    return tuple(api.read_config(entry) for entry in json.loads(text))


def _dump(adapters: Sequence[AdapterConfig]) -> list[dict[str, Any]]:
    return [config.dump(entry) for entry in adapters]
