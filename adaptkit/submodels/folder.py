"""A folder of Submodels that is watched: which are there and sound, which changed, and their weights."""

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

_Stamp = tuple[int, ...]  # by which a file is told from the one it replaced


@dataclass(frozen=True)
class File:
    """A file as it was when it was looked at."""

    entry: Entry
    stamp: _Stamp
    spoilt: str = ""  # what is wrong with its weights, which a look does not read

    @property
    def path(self) -> Path:
        """Say where it lies."""
        return self.entry.path

    @property
    def task(self) -> str:
        """Say whose it is."""
        return self.entry.task

    @property
    def problem(self) -> str:
        """Say which file cannot be used, why, and what would mend that; nothing where it can be."""
        return self.spoilt or (self.entry.problem and f"{self.path}: {self.entry.problem}")


@dataclass(frozen=True)
class Look:
    """The files that a look found, and those that were known when it began, by their names."""

    found: Mapping[str, File]
    known: Mapping[str, File]


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
        self._compatibility = Compatibility(
            self.shared, base, {name: table.shape[1:] for name, table in own.items()}
        )
        self._files: Mapping[str, File] = {}  # by file name; replaced, and never changed
        self._sound: dict[str, File] = {}  # by task, sorted

    def known(self) -> list[str]:
        """Name the tasks whose files are sound, sorted."""
        return list(self._sound)

    def problems(self) -> dict[str, str]:
        """Give what is wrong with the other files, by task or, where its name does not tell, by file name."""
        return {file.task: file.problem for file in self._files.values() if file.problem}

    def find(self, task: str) -> File | None:
        """Give the sound file of a task."""
        return self._sound.get(task)

    def find_problem(self, task: str, *, with_weights: bool = False) -> str:
        """Say what is wrong with a task's file, reading it through if asked; nothing where there is none."""
        file = self._files.get(file_name(task))
        if file is None or file.problem or not with_weights:
            return "" if file is None else file.problem
        return self._try(file)

    def look(self) -> Look:
        """Find the files that are there now; headers are read of those that are new, changed or spoilt."""
        found, known = {}, self._files
        for path in find_files(self.path):
            stamp, before = _stamp(path), known.get(path.name)
            is_same = before is not None and before.stamp == stamp and not before.spoilt
            if stamp:  # else it was removed since
                found[path.name] = before if is_same else self._inspect(path, stamp, before)
        return Look(found, known)

    def take(self, look: Look) -> list[str]:
        """Put what was found in place; name the tasks whose files are new, changed or gone, sorted.

        What turned out to be spoilt while somebody looked stays so, if it is the same file.
        """
        spoilt = {
            name: file
            for name, file in self._files.items()
            if file.spoilt
            and file is not look.known.get(name)
            and name in look.found
            and file.stamp == look.found[name].stamp
        }
        files = {**look.found, **spoilt}
        changed = {
            file.task
            for before, after in ((self._files, files), (files, self._files))
            for name, file in before.items()
            if file != after.get(name)
        }
        self._replace(files)
        return sorted(changed)

    def spoil(self, file: File, reason: str) -> None:
        """Note that a file's weights cannot be used; the next look reads it again.

        A file that was removed is forgotten, unless the whole folder is away.
        """
        name = file.path.name
        if self._files.get(name) != file:
            return
        files = {**self._files, name: replace(file, spoilt=reason)}
        if not _stamp(file.path) and _stamp(self.path / SHARED_FILE):
            del files[name]
        self._replace(files)

    def read(self, file: File) -> Submodel:
        """Read a Submodel; damaged ones, and those that do not go with `shared`, are refused."""
        self._refuse_other_shared()
        return self._compatibility.read(file.path)

    def _inspect(self, path: Path, stamp: _Stamp, before: File | None) -> File:
        """Look at one file, and at its weights where they were spoilt and nothing has changed since."""
        file = File(self._compatibility.inspect(path), stamp)
        if before is not None and before.spoilt and before.stamp == stamp and not file.problem:
            return replace(file, spoilt=self._try(file))
        return file

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

    def _replace(self, files: Mapping[str, File]) -> None:
        self._files = files
        sound = {file.task: file for file in files.values() if not file.problem}
        self._sound = dict(sorted(sound.items()))


def _stamp(path: Path) -> _Stamp:
    """Tell a file from others of its name; a replaced one may have the same size and time of change."""
    try:
        status = path.stat()
    except OSError:
        return ()
    return status.st_size, status.st_mtime_ns, status.st_ino
