"""An LRU cache of Submodels: recently used ones are in the slots of an adapter stack, the others on disk.

A slot is a task of that stack, so that a batch can mix Submodels and the base model as it mixes tasks.
"""

import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Condition, Lock

from adaptkit.adapters.per_task import SHARED, task_parameters
from adaptkit.base.checkpoint import BaseModel
from adaptkit.errors import AdaptkitError, CheckpointError, ConfigError, nearest
from adaptkit.submodels.files import SHARED_FILE, Submodel
from adaptkit.submodels.folder import File, SubmodelFolder
from adaptkit.submodels.loaders import Loaders
from adaptkit.submodels.slots import CacheStats, Counts, Resident, Slots, build_slots

LOAD_SEC = 10.0  # the longest wait for files; after that, a network drive counts as hanging
_MOST_SLOTS = 65536  # bounds the number of slot names, as a speaker embedding takes only a few bytes


class SubmodelCache:
    """The Submodels of a folder, those in memory limited to `budget_bytes`; thread-safe.

    A budget below the size of one Submodel is refused. On CPU a slot takes memory from its first use on; on
    CUDA all slots are allocated at once. `stack` holds the adapters to hook into a model. Forward passes run
    one at a time, since `stack.for_tasks` sets the slots of their rows; Submodels are loaded meanwhile. On
    CUDA, passes and copies both use the default stream.
    """

    def __init__(
        self,
        folder: Path,
        base: BaseModel,
        *,
        budget_bytes: int,
        most_slots: int = _MOST_SLOTS,
        num_threads: int = 2,
    ):
        self._folder = SubmodelFolder(folder, base)
        self.bytes_each = self._folder.bytes_each
        if budget_bytes < self.bytes_each:
            raise ConfigError(
                f"{folder}: a Submodel takes {self.bytes_each:,} bytes, but only {budget_bytes:,} are "
                f"allowed; raise --submodel-mb to {self.megabytes(1)}"
            )
        self.num_slots = min(budget_bytes // max(1, self.bytes_each), most_slots, _MOST_SLOTS)
        self.stack = build_slots(self._folder.shared, base, self.num_slots)
        self._tables = {name: table.detach() for name, table in task_parameters(self.stack)}
        self._loaders = Loaders(num_threads, "submodels")
        self._refreshing = Lock()
        self._changed = Condition()  # guards all attributes below, and the state of the folder
        self._slots = Slots(self.num_slots)
        self._queue: deque[object] = deque()  # callers waiting for slots, in order
        self._heads: dict[int, Submodel] = {}  # the Submodel in each slot, without weights
        self._counts = Counts()
        self._is_closed = False
        self.refresh()

    def known(self) -> list[str]:
        """List the tasks whose files were valid at the last scan, sorted."""
        with self._changed:
            return self._folder.known()

    def problems(self) -> dict[str, str]:
        """Return the problem of each unusable file, by task or, if the task is unknown, by file name."""
        with self._changed:
            return self._folder.problems()

    def resident(self) -> list[str]:
        """List the tasks in memory or being loaded, least recently used first."""
        with self._changed:
            return list(self._slots.residents)

    def refresh(self) -> list[str]:
        """Scan the folder again; return the tasks whose files are new, changed or removed.

        The Submodel of a changed file is evicted, but batches that are using it finish with the old one.
        """
        with self._refreshing:
            found = self._folder.look()
            with self._changed:
                changed = self._folder.take(found)
                for task in changed:
                    self._slots.drop(task)
                self._changed.notify_all()
        return changed

    def check(self, tasks: Iterable[str]) -> None:
        """Read the whole files of some tasks, and report all damaged ones in one error.

        A task without a file is not an error here.
        """
        find = partial(self._folder.find_problem, with_weights=True)
        finding = [self._loaders.submit(find, task) for task in dict.fromkeys(tasks)]
        reasons = [reason for reason in (found.result() for found in finding) if reason]
        if reasons:
            raise CheckpointError("\n".join(reasons))

    def files(self, tasks: Iterable[str]) -> list[Path]:
        """List the files with the weights of some tasks, and with those that any task may use."""
        with self._changed:
            found = map(self._folder.find, dict.fromkeys([*tasks, SHARED]))
            return [self._folder.path / SHARED_FILE, *(file.path for file in found if file)]

    def prefetch(self, tasks: Iterable[str]) -> None:
        """Load Submodels in the background, as far as slots not in use suffice.

        This is a hint: it does nothing while a caller waits for slots, and errors are raised on use.
        """
        with self._changed:
            if not self._queue and not self._is_closed:
                self._load_ahead(task for task in dict.fromkeys(tasks) if self._folder.find(task))

    def pin(self, tasks: Iterable[str]) -> None:
        """Protect Submodels from eviction once they are loaded; more of them than slots are a ConfigError."""
        tasks = list(dict.fromkeys(tasks))
        with self._changed:
            pinned = self._slots.pinned.union(tasks)
            unusable = self._find_unusable(tasks)
            if not unusable and len(pinned) > self.num_slots:
                raise self._too_few(len(pinned), "pinned")
            if not unusable:
                self._slots.pinned = pinned
                self._changed.notify_all()  # a caller waiting for more slots than are now left must fail
                return
        raise CheckpointError(self._explain(unusable))

    def unpin(self, tasks: Iterable[str]) -> None:
        """Allow Submodels to be evicted again."""
        with self._changed:
            self._slots.pinned.difference_update(tasks)
            self._changed.notify_all()

    @contextmanager
    def using(self, tasks: Sequence[str | None]) -> Iterator[list[int]]:
        """Load the Submodels of a batch and yield each row's slot, -1 for None (the base model).

        They stay in their slots until the block ends. All slots are acquired at once and in the order of
        calls, so threads cannot deadlock; nesting blocks in one thread can. More Submodels than slots raise
        ConfigError; unknown and damaged ones raise CheckpointError with the reasons.
        """
        wanted = list(dict.fromkeys(task for task in tasks if task is not None))
        held = self._hold(wanted)
        try:
            self._wait_for(held)
            slots = {resident.file.task: resident.slot for resident in held}
            yield [-1 if task is None else slots[task] for task in tasks]
        finally:
            with self._changed:
                self._slots.leave(held)
                self._changed.notify_all()

    def submodel_in(self, slot: int) -> Submodel:
        """Return the Submodel in a slot, without its weights; inside `using` it is the one in use."""
        return self._heads[slot]

    def stats(self) -> CacheStats:
        """Return the current contents and the counters of the cache."""
        with self._changed:
            return CacheStats(
                num_slots=self.num_slots,
                num_known=len(self._folder.known()),
                num_resident=len(self._slots.residents),
                num_pinned=len(self._slots.pinned),
                resident_bytes=len(self._slots.residents) * self.bytes_each,
                evictions=self._slots.num_evicted,
                **vars(self._counts),
            )

    def megabytes(self, num_submodels: int) -> int:
        """Return the budget, in MiB, for some number of Submodels."""
        return -(-num_submodels * self.bytes_each // 2**20)

    def close(self) -> None:
        """End the loading threads and refuse further use; Submodels in use stay in their slots."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        self._loaders.close()

    def _hold(self, wanted: Sequence[str]) -> list[Resident]:
        """Acquire slots for all tasks at once, in the order of calls, and start loading missing Submodels."""
        turn = object()
        with self._changed:
            self._queue.append(turn)
            try:
                if not self._is_over(turn, wanted):
                    self._counts.waits += 1
                    self._changed.wait_for(lambda: self._is_over(turn, wanted))
                unusable = self._find_unusable(wanted)
                if not unusable:
                    num_hits = sum(task in self._slots.residents for task in wanted)
                    self._counts.hits += num_hits
                    self._counts.misses += len(wanted) - num_hits
                    self._load_ahead(wanted)
                    return self._slots.hold(wanted)
            finally:
                self._queue.remove(turn)
                self._changed.notify_all()
        raise CheckpointError(self._explain(unusable))  # without the lock: finding near names is slow

    def _is_over(self, turn: object, wanted: Sequence[str]) -> bool:
        """Return whether a caller need not wait: it has its turn and there is room, or tasks are unusable."""
        if self._is_closed:
            raise RuntimeError("the cache of Submodels is closed")
        if self._find_unusable(wanted):
            return True
        num_pinned = self._slots.count_pinned_beside(wanted)
        if len(wanted) + num_pinned > self.num_slots:
            raise self._too_few(len(wanted) + num_pinned, f"{len(wanted)} at once beside {num_pinned} pinned")
        return self._queue[0] is turn and self._slots.has_room(wanted)

    def _load_ahead(self, tasks: Iterable[str]) -> None:
        """Start loading known tasks that have no slot, as far as there is room; the lock must be held."""
        for resident in self._slots.admit([self._folder.find(task) for task in tasks]):
            self._loaders.submit(self._load, resident)

    def _load(self, resident: Resident) -> None:
        """Load a Submodel from disk into its slot, in a loading thread: no other thread reads the folder."""
        started, is_removed = time.perf_counter(), False
        try:
            self._fill(resident.slot, resident.file)
        except Exception as error:  # raised in the threads that wait for it
            resident.error = error
            is_removed = self._folder.is_removed(resident.file)
        with self._changed:
            self._note(resident, time.perf_counter() - started, is_removed=is_removed)
            self._slots.finish(resident)
            self._changed.notify_all()

    def _fill(self, slot: int, file: File) -> None:
        submodel = self._folder.read(file)
        for name, table in self._tables.items():
            table[slot].copy_(submodel.weights[name])
        self._heads[slot] = replace(submodel, weights={})

    def _note(self, resident: Resident, seconds: float, *, is_removed: bool) -> None:
        """Count a load, or a failure and its reason."""
        counts = self._counts
        if resident.error is None:
            counts.loads += 1
            counts.load_seconds += seconds
            counts.load_seconds_max = max(counts.load_seconds_max, seconds)
            return
        counts.failures += 1
        if isinstance(resident.error, AdaptkitError):
            self._folder.mark_damaged(resident.file, str(resident.error), is_removed=is_removed)

    def _wait_for(self, held: Sequence[Resident]) -> None:
        """Wait until all Submodels are loaded, for `LOAD_SEC` at most; raise their failures in one error."""
        with self._changed:
            self._changed.wait_for(lambda: all(resident.is_done for resident in held), LOAD_SEC)
            late = [resident.file for resident in held if not resident.is_done]
            for file in late:  # no other caller shall wait for it; its slot is freed once its thread is done
                self._slots.drop(file.task)
                self._folder.mark_damaged(file, _too_late(file))
        if late:
            raise CheckpointError("\n".join(map(_too_late, late)))
        errors = [resident.error for resident in held if resident.error is not None]
        for error in errors:
            if not isinstance(error, AdaptkitError):
                raise error
        if errors:
            raise CheckpointError("\n".join(map(str, errors)))

    def _find_unusable(self, wanted: Iterable[str]) -> dict[str, str]:
        """Return the tasks that cannot be used, with the problem of their file if there is one."""
        return {task: self._folder.find_problem(task) for task in wanted if not self._folder.find(task)}

    def _explain(self, unusable: Mapping[str, str]) -> str:
        known = self.known()
        return "\n".join(
            reason or f"{self._folder.path}: has no Submodel of '{task}'{nearest(task, known)}"
            for task, reason in unusable.items()
        )

    def _too_few(self, num: int, what: str) -> ConfigError:
        return ConfigError(
            f"{num} Submodels of {self.bytes_each:,} bytes must be in memory ({what}), but only "
            f"{self.num_slots} fit; raise --submodel-mb to {self.megabytes(num)}"
        )


def _too_late(file: File) -> str:
    return f"{file.path}: not read within {LOAD_SEC:g} s; check the disk or network drive it is on"
