"""A folder of Submodels that may change while in use: which files are valid, and which have changed."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from adaptkit.adapters import api
from adaptkit.adapters.per_task import task_parameters
from adaptkit.base.checkpoint import BaseModel
from adaptkit.errors import CheckpointError
from adaptkit.submodels.compatibility import Compatibility, Entry, find_files
from adaptkit.submodels.files import SHARED_FILE, Submodel, file_name, read_shared
from adaptkit.tensors import load_strictly

_Stamp = tuple[int, ...]  # distinguishes a file from the one it replaced


@dataclass(frozen=True)
class File:
    """A file at the time it was scanned."""

    entry: Entry
    stamp: _Stamp
    damage: str = ""  # problem of its weights, which scans do not read

    @property
    def path(self) -> Path:
        """The path of the file."""
        return self.entry.path

    @property
    def task(self) -> str:
        """The task of the file."""
        return self.entry.task

    @property
    def problem(self) -> str:
        """Why the file cannot be used, and the remedy; empty if it can."""
        return self.damage or (self.entry.problem and f"{self.path}: {self.entry.problem}")


@dataclass(frozen=True)
class Look:
    """The files that a scan found, and those known when it began, by file name."""

    found: Mapping[str, File]
    known: Mapping[str, File]


class SubmodelFolder:
    """The Submodels in a folder that match a base model, as of the last scan; `shared` never changes.

    `look`, `read` and `is_removed` are slow and change no state; `take` applies the result of a scan.
    """

    def __init__(self, path: Path, base: BaseModel):
        self.path = Path(path)
        self._shared_stamp = _stamp(self.path / SHARED_FILE)
        self.shared = read_shared(self.path)
        if self.shared.base_fingerprint != base.fingerprint:
            raise CheckpointError(
                f"{self.path}: Submodels for base model {self.shared.base_fingerprint}, but {base.path} is "
                f"{base.fingerprint}; use the folder of the right one"
            )
        stack = api.build(self.shared.adapters, base.sites, ["one"], seed=None)
        own = {name: table.detach() for name, table in task_parameters(stack)}
        load_strictly(stack, {**own, **self.shared.weights}, self.path / SHARED_FILE)
        self.bytes_each = sum(table.nbytes for table in own.values())
        self._compatibility = Compatibility(
            self.shared, base, {name: table.shape[1:] for name, table in own.items()}
        )
        self._files: Mapping[str, File] = {}  # by file name; replaced, never mutated
        self._valid: dict[str, File] = {}  # by task, sorted

    def known(self) -> list[str]:
        """List the tasks whose files are valid, sorted."""
        return list(self._valid)

    def problems(self) -> dict[str, str]:
        """Return the problem of each unusable file, by task or, if that is unknown, by file name."""
        return {file.task: file.problem for file in self._files.values() if file.problem}

    def find(self, task: str) -> File | None:
        """Return the valid file of a task, if there is one."""
        return self._valid.get(task)

    def find_problem(self, task: str, *, with_weights: bool = False) -> str:
        """Return the problem of a task's file, also of its weights if asked; empty if there is none."""
        file = self._files.get(file_name(task))
        if file is None or file.problem or not with_weights:
            return "" if file is None else file.problem
        return self._try(file)

    def look(self) -> Look:
        """Scan the folder; read the headers of files that are new, changed or damaged."""
        found, known = {}, self._files
        for path in find_files(self.path):
            stamp, before = _stamp(path), known.get(path.name)
            is_same = before is not None and before.stamp == stamp and not before.damage
            if stamp:  # otherwise it has been removed meanwhile
                found[path.name] = before if is_same else self._inspect(path, stamp, before)
        return Look(found, known)

    def take(self, look: Look) -> list[str]:
        """Apply the result of a scan; return the tasks whose files are new, changed or removed, sorted.

        A file that was marked as damaged during the scan stays marked unless it has changed.
        """
        damaged = {
            name: file
            for name, file in self._files.items()
            if file.damage
            and file is not look.known.get(name)
            and name in look.found
            and file.stamp == look.found[name].stamp
        }
        files = {**look.found, **damaged}
        changed = {
            file.task
            for before, after in ((self._files, files), (files, self._files))
            for name, file in before.items()
            if file != after.get(name)
        }
        self._replace(files)
        return sorted(changed)

    def is_removed(self, file: File) -> bool:
        """Return whether a file, but not the whole folder, is missing; this reads the folder."""
        return not _stamp(file.path) and bool(_stamp(self.path / SHARED_FILE))

    def mark_damaged(self, file: File, reason: str, *, is_removed: bool = False) -> None:
        """Mark a file as damaged, or forget a removed one; the next scan reads it again."""
        name = file.path.name
        if self._files.get(name) != file:
            return
        files = {**self._files, name: replace(file, damage=reason)}
        if is_removed:
            del files[name]
        self._replace(files)

    def read(self, file: File) -> Submodel:
        """Read a Submodel; refuse one that is damaged or does not match `shared`."""
        self._refuse_other_shared()
        return self._compatibility.read(file.path)

    def _inspect(self, path: Path, stamp: _Stamp, before: File | None) -> File:
        """Inspect a file, and also its weights if they were damaged and the file has not changed."""
        file = File(self._compatibility.inspect(path), stamp)
        if before is not None and before.damage and before.stamp == stamp and not file.problem:
            return replace(file, damage=self._try(file))
        return file

    def _try(self, file: File) -> str:
        """Read a whole file; return its problem, empty if there is none."""
        try:
            self.read(file)
        except CheckpointError as error:
            return str(error)
        return ""

    def _refuse_other_shared(self) -> None:
        """Refuse to continue if the shared weights on disk have changed."""
        path = self.path / SHARED_FILE
        stamp = _stamp(path)
        if stamp == self._shared_stamp:
            return
        difference = self.shared.difference(read_shared(self.path))
        if difference:
            raise CheckpointError(f"{path}: has changed while in use, {difference}; restart to use it")
        self._shared_stamp = stamp

    def _replace(self, files: Mapping[str, File]) -> None:
        self._files = files
        valid = {file.task: file for file in files.values() if not file.problem}
        self._valid = dict(sorted(valid.items()))


def _stamp(path: Path) -> _Stamp:
    """Return what distinguishes a file from one it replaced, even with equal size and modification time."""
    try:
        status = os.stat(path) if os.path.exists(path) else os.lstat(path)  # of a link that leads nowhere
    except OSError:
        return ()
    return status.st_size, status.st_mtime_ns, status.st_ino
