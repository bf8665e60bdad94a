"""A folder of Submodels that is watched: which are there and sound, which changed, and their weights."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from adaptkit.adapters import api
from adaptkit.adapters.per_task import task_parameters
from adaptkit.base.checkpoint import BaseModel, load_strictly
from adaptkit.errors import CheckpointError, listed
from adaptkit.files import describe
from adaptkit.submodels.files import SHARED_FILE, SUFFIX, Submodel, file_name, read, read_head, read_shared

_Stamp = tuple[int, ...]  # by which a file is told from the one it replaced


@dataclass(frozen=True)
class File:
    """A file as it was when it was looked at."""

    path: Path
    stamp: _Stamp
    task: str = ""  # nothing where it cannot be read
    problem: str = ""  # why it cannot be used, and what would mend that
    is_spoilt: bool = False  # the problem lies in the weights, which a look does not read


class SubmodelFolder:
    """The Submodels in a folder that go with a base model, as of the last look; `shared` never changes.

    Looking, and reading weights, takes time and changes nothing here; `take` puts what was found in place.
    """

    def __init__(self, path: Path, base: BaseModel):
        self.path = Path(path)
        self._shared_stamp = _stamp(self.path / SHARED_FILE)
        self.shared = read_shared(self.path)
        if self.shared.base_fingerprint != base.fingerprint:
            raise CheckpointError(
                f"{self.path}: Submodels of the base model {self.shared.base_fingerprint}, {base.path} is "
                f"{base.fingerprint}; give the folder of the right one"
            )
        stack = api.build(self.shared.adapters, base.sites, ["one"], seed=None)
        own = {name: table.detach() for name, table in task_parameters(stack)}
        load_strictly(stack, {**own, **self.shared.weights}, self.path / SHARED_FILE)
        self.bytes_each = sum(table.nbytes for table in own.values())
        self._shapes = {name: table.shape[1:] for name, table in own.items()}
        self._files: dict[str, File] = {}  # by file name
        self._sound: dict[str, File] = {}  # by task, sorted

    def known(self) -> list[str]:
        """Name the tasks whose files are sound, sorted."""
        return list(self._sound)

    def problems(self) -> dict[str, str]:
        """Give what is wrong with the other files, by task or, where it cannot be read, by file name."""
        return {file.task or name: file.problem for name, file in self._files.items() if file.problem}

    def find(self, task: str) -> File | None:
        """Give the sound file of a task."""
        return self._sound.get(task)

    def find_problem(self, task: str, *, with_weights: bool = False) -> str:
        """Say what is wrong with a task's file, reading it through if asked; nothing where there is none."""
        file = self._files.get(file_name(task))
        if file is None or file.problem or not with_weights:
            return "" if file is None else file.problem
        return self._try(file)

    def look(self) -> dict[str, File]:
        """Find the files that are there now; headers are read of those that are new, changed or spoilt."""
        found = {}
        try:
            with os.scandir(self.path) as entries:
                names = [entry.name for entry in entries if _is_submodel(entry.name)]
        except OSError as error:
            raise CheckpointError(describe(error, self.path)) from error
        for name in names:
            stamp, before = _stamp(self.path / name), self._files.get(name)
            is_same = before is not None and before.stamp == stamp and not before.is_spoilt
            if stamp:  # else it was removed since
                found[name] = before if is_same else self._inspect(self.path / name, stamp, before)
        return found

    def take(self, found: Mapping[str, File]) -> list[str]:
        """Put what was found in place; name the tasks whose files are new, changed or gone, sorted."""
        changed = {
            file.task
            for before, after in ((self._files, found), (found, self._files))
            for name, file in before.items()
            if file.task and file != after.get(name)
        }
        self._files = dict(found)
        self._sort()
        return sorted(changed)

    def spoil(self, file: File, reason: str) -> None:
        """Note that a file's weights cannot be used; the next look reads it again."""
        if self._files.get(file.path.name) == file:
            self._files[file.path.name] = replace(file, problem=reason, is_spoilt=True)
            self._sort()

    def read(self, file: File) -> Mapping[str, Tensor]:
        """Read a Submodel's weights; damaged ones, and those that do not go with `shared`, are refused."""
        self._refuse_other_shared()
        try:
            submodel = read(file.path)
        except OSError as error:
            raise CheckpointError(describe(error, file.path)) from error
        problem = self._find_misfit(file.path, submodel)
        if problem:
            raise CheckpointError(problem)
        if submodel.task != file.task:
            raise CheckpointError(f"{file.path}: is of task '{submodel.task}' now; export it again")
        shapes = {name: weight.shape for name, weight in submodel.weights.items()}
        if shapes != self._shapes:
            names = sorted(dict(shapes.items() ^ self._shapes.items()))
            raise CheckpointError(
                f"{file.path}: does not fit its configuration: {listed(names)}; export again"
            )
        return submodel.weights

    def _inspect(self, path: Path, stamp: _Stamp, before: File | None) -> File:
        """Look at one file, and at its weights where they were spoilt and nothing has changed since."""
        try:
            head, _ = read_head(path)
        except (CheckpointError, OSError) as error:
            return File(path, stamp, problem=_tell(error, path))
        if file_name(head.task) != path.name:
            remedy = f"rename it to {file_name(head.task)}, or export it again"
            return File(path, stamp, problem=f"{path}: holds the Submodel of '{head.task}'; {remedy}")
        file = File(path, stamp, head.task)
        if before is not None and before.is_spoilt and before.stamp == stamp:
            problem = self._try(file)
            return replace(file, problem=problem, is_spoilt=bool(problem))
        return replace(file, problem=self._find_misfit(path, head))

    def _find_misfit(self, path: Path, submodel: Submodel) -> str:
        difference = self.shared.difference(submodel)
        return difference and f"{path}: {difference} as {SHARED_FILE} says; move it to a folder of its kind"

    def _try(self, file: File) -> str:
        """Read a file through; give what is wrong with it."""
        try:
            self.read(file)
        except CheckpointError as error:
            return str(error)
        return ""

    def _refuse_other_shared(self) -> None:
        """Refuse to go on where the weights that all Submodels share are others now."""
        path = self.path / SHARED_FILE
        stamp = _stamp(path)
        if stamp == self._shared_stamp:
            return
        difference = self.shared.difference(read_shared(self.path))
        if difference:
            raise CheckpointError(f"{path}: has changed while in use, {difference}; restart to use it")
        self._shared_stamp = stamp

    def _sort(self) -> None:
        sound = {file.task: file for file in self._files.values() if not file.problem}
        self._sound = dict(sorted(sound.items()))


def _tell(error: Exception, path: Path) -> str:
    return describe(error, path) if isinstance(error, OSError) else str(error)


def _is_submodel(name: str) -> bool:
    return name.endswith(SUFFIX) and name != SHARED_FILE and not name.startswith(".")


def _stamp(path: Path) -> _Stamp:
    """Tell a file from others of its name; a replaced one may have the same size and time of change."""
    try:
        status = path.stat()
    except OSError:
        return ()
    return status.st_size, status.st_mtime_ns, status.st_ino
