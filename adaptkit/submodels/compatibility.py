"""Compatibility checks for the Submodels of a folder, and the problems of unusable files."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from adaptkit.base import owsm
from adaptkit.base.checkpoint import BaseModel
from adaptkit.errors import CheckpointError, listed
from adaptkit.files import explain_os_error, stamp
from adaptkit.submodels.files import (
    SHARED_FILE,
    SPEAKERS_FILE,
    SUFFIX,
    Shared,
    Submodel,
    file_name,
    name_task,
    read,
    read_head,
)


@dataclass(frozen=True)
class Entry:
    """A file in a folder of Submodels."""

    path: Path
    task: str  # or the file name, if it does not encode a task
    kind: str
    num_parameters: int
    num_bytes: int
    base_fingerprint: str
    problem: str  # why it cannot be used, and the remedy; empty if it is usable
    unimproved: bool = False  # whether it keeps its start's weights: no validation was better


@dataclass(frozen=True)
class Compatibility:
    """The shared weights and, if given, the base model that each Submodel of a folder must match."""

    shared: Shared
    base: BaseModel | None = None
    shapes: Mapping[str, torch.Size] | None = None  # of a Submodel's weights; None if unknown

    def inspect(self, path: Path) -> Entry:
        """Inspect a file without reading its weights."""
        named, num_bytes = name_task(path), sum(stamp(path)[:1])
        try:
            head, num_parameters = read_head(path)
        except CheckpointError as error:
            return Entry(path, named, "", 0, num_bytes, "", reason(path, error))
        return Entry(
            path=path,
            task=head.task if path.name == file_name(head.task) else named,
            kind=head.kind,
            num_parameters=num_parameters,
            num_bytes=num_bytes,
            base_fingerprint=head.base_fingerprint,
            problem=self._find_misfit(path, head),
            unimproved=head.unimproved,
        )

    def read(self, path: Path) -> Submodel:
        """Read a Submodel; a damaged or incompatible one raises CheckpointError."""
        submodel = read(path)
        problem = self._find_misfit(path, submodel) or self._find_odd_shapes(submodel)
        if problem:
            raise CheckpointError(f"{path}: {problem}")
        return submodel

    def _find_misfit(self, path: Path, head: Submodel) -> str:
        if path.name != file_name(head.task):
            remedy = f"rename it to {file_name(head.task)}, or export it again"
            return f"holds the Submodel of {head.task!r}; {remedy}"
        difference = self.shared.difference(head)
        if difference:
            return f"{difference} as in {SHARED_FILE}; move it to a separate folder"
        if self.base is not None and self.base.fingerprint != head.base_fingerprint:
            found = f"{self.base.path} is {self.base.fingerprint}"
            remedy = owsm.remedy_of(
                head.base_fingerprint, self.base.fingerprint, "use the matching base model"
            )
            return f"for base model {head.base_fingerprint}, but {found}; {remedy}"
        return ""

    def _find_odd_shapes(self, submodel: Submodel) -> str:
        shapes = {name: weight.shape for name, weight in submodel.weights.items()}
        if self.shapes is None or shapes == self.shapes:
            return ""
        names = sorted(dict(shapes.items() ^ self.shapes.items()))
        return f"does not match its own configuration: {listed(names)}; export it again"


def find_files(folder: Path) -> list[Path]:
    """Find Submodel files by name, without shared weights and partial files of killed runs."""
    try:
        with os.scandir(folder) as found:
            names = [entry.name for entry in found if entry.name.endswith(SUFFIX)]
    except OSError as error:
        raise CheckpointError(explain_os_error(error, folder)) from error
    others = (SHARED_FILE, SPEAKERS_FILE)
    return [folder / name for name in names if name not in others and not name.startswith(".")]


def reason(path: Path, error: CheckpointError) -> str:
    """Return the message of an error about a file, without the path."""
    return str(error).removeprefix(f"{path}: ")
