"""A cache of Submodels: those used last lie in the slots of one stack of adapters, the others on disk.

A slot is a task of that stack, so that a batch mixes Submodels, and rows of the base, as it mixes tasks.
"""

import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Condition, Lock

from adaptkit.adapters.per_task import task_parameters
from adaptkit.base.checkpoint import BaseModel
from adaptkit.errors import AdaptkitError, CheckpointError, ConfigError, nearest
from adaptkit.submodels.files import Submodel
from adaptkit.submodels.folder import File, SubmodelFolder
from adaptkit.submodels.slots import CacheStats, Counts, Resident, Slots, build_slots

_MOST_SLOTS = 65536  # a Submodel of a space is a few numbers, and every slot has a name


class SubmodelCache:
    """The Submodels of a folder, as many of them in memory as `budget_bytes` hold; safe with threads.

    A budget that holds none is refused. On CPU a slot takes memory from its first use on, on CUDA all do now.
    `stack` is what a model is hooked with. Passes through it are one at a time, since `stack.for_tasks`
    chooses their rows' slots; loading goes on meanwhile. On CUDA passes run on the default stream, on which
    Submodels are copied too.
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
                f"{folder}: a Submodel takes {self.bytes_each:,} bytes, and {budget_bytes:,} are allowed; "
                f"--submodel-mb {self.megabytes(1)} would do"
            )
        self.num_slots = min(budget_bytes // max(1, self.bytes_each), most_slots, _MOST_SLOTS)
        self.stack = build_slots(self._folder.shared, base, self.num_slots)
        self._tables = {name: table.detach() for name, table in task_parameters(self.stack)}
        self._executor = ThreadPoolExecutor(num_threads, thread_name_prefix="submodels")
        self._refreshing = Lock()
        self._changed = Condition()  # guards all below, and what the folder says
        self._slots = Slots(self.num_slots)
        self._queue: deque[object] = deque()  # who waits for slots, in turn
        self._heads: dict[int, Submodel] = {}  # of what lies in the slots, without weights
        self._counts = Counts()
        self._is_closed = False
        self.refresh()

    def known(self) -> list[str]:
        """Name the tasks whose files were sound at the last look, sorted."""
        with self._changed:
            return self._folder.known()

    def problems(self) -> dict[str, str]:
        """Give what is wrong with other files, by task or, where that cannot be read, by name."""
        with self._changed:
            return self._folder.problems()

    def resident(self) -> list[str]:
        """Name the tasks in memory or on their way there, the least recently used first."""
        with self._changed:
            return list(self._slots.residents)

    def refresh(self) -> list[str]:
        """Look at the folder again, and name the tasks whose files are new, changed or gone.

        What lies in memory of a changed file is let go of; who uses it now keeps it to the end.
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
        """Read the files of tasks through and refuse those that are damaged, all at once.

        A task without a file is no problem here.
        """
        find = partial(self._folder.find_problem, with_weights=True)
        reasons = [reason for reason in self._executor.map(find, dict.fromkeys(tasks)) if reason]
        if reasons:
            raise CheckpointError("\n".join(reasons))

    def prefetch(self, tasks: Iterable[str]) -> None:
        """Load Submodels in the background, as many as have room beside those in use.

        It is a hint: it does nothing while somebody waits for slots, and what is wrong with a name is told
        when it is used.
        """
        with self._changed:
            if not self._queue and not self._is_closed:
                self._load_ahead(task for task in dict.fromkeys(tasks) if self._folder.find(task))

    def pin(self, tasks: Iterable[str]) -> None:
        """Keep Submodels in memory once they are there; more of them than slots are refused."""
        tasks = list(dict.fromkeys(tasks))
        with self._changed:
            pinned = self._slots.pinned.union(tasks)
            strange = self._find_strange(tasks)
            if not strange and len(pinned) > self.num_slots:
                raise self._too_few(len(pinned), "pinned")
            if not strange:
                self._slots.pinned = pinned
                self._changed.notify_all()  # who waits for more slots than are left now must not
                return
        raise CheckpointError(self._explain(strange))

    def unpin(self, tasks: Iterable[str]) -> None:
        """Let Submodels give way to others again."""
        with self._changed:
            self._slots.pinned.difference_update(tasks)
            self._changed.notify_all()

    @contextmanager
    def using(self, tasks: Sequence[str | None]) -> Iterator[list[int]]:
        """Give the slot of each row's Submodel, -1 for None, the base itself; they stay until the block ends.

        What is missing is loaded. Slots are taken all at once, and in turn, so that threads cannot wait for
        each other; but a block inside a block of the same thread may wait for itself. More Submodels than
        slots are a ConfigError; unknown and damaged ones a CheckpointError with the reasons.
        """
        wanted = list(dict.fromkeys(task for task in tasks if task is not None))
        held = self._hold(wanted)
        try:
            for resident in held:
                self._load(resident)  # unless another thread does
            self._wait_for(held)
            slots = {resident.file.task: resident.slot for resident in held}
            yield [-1 if task is None else slots[task] for task in tasks]
        finally:
            with self._changed:
                self._slots.leave(held)
                self._changed.notify_all()

    def describe(self, slot: int) -> Submodel:
        """Give the Submodel that lies in a slot, without its weights; inside `using` it is the one used."""
        return self._heads[slot]

    def stats(self) -> CacheStats:
        """Count what the cache holds now, and what it has done."""
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
        """Give the budget, in MiB, that holds so many."""
        return -(-num_submodels * self.bytes_each // 2**20)

    def close(self) -> None:
        """End the threads that load; nothing can be used from now on, and what is in use stays."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        self._executor.shutdown(cancel_futures=True)

    def _hold(self, wanted: Sequence[str]) -> list[Resident]:
        """Take slots for all tasks at once, in turn; those that had none are loading."""
        turn = object()
        with self._changed:
            self._queue.append(turn)
            try:
                if not self._is_over(turn, wanted):
                    self._counts.waits += 1
                    self._changed.wait_for(lambda: self._is_over(turn, wanted))
                strange = self._find_strange(wanted)
                if not strange:
                    num_hits = sum(task in self._slots.residents for task in wanted)
                    self._counts.hits += num_hits
                    self._counts.misses += len(wanted) - num_hits
                    self._load_ahead(wanted, num_own=1)
                    return self._slots.hold(wanted)
            finally:
                self._queue.remove(turn)
                self._changed.notify_all()
        raise CheckpointError(self._explain(strange))  # without the lock: looking for near names takes long

    def _is_over(self, turn: object, wanted: Sequence[str]) -> bool:
        """Tell whether waiting is over: it is one's turn and there is room, or the tasks are unknown."""
        if self._is_closed:
            raise RuntimeError("the cache of Submodels is closed")
        if self._find_strange(wanted):
            return True
        num_pinned = self._slots.count_pinned_beside(wanted)
        if len(wanted) + num_pinned > self.num_slots:
            raise self._too_few(len(wanted) + num_pinned, f"{len(wanted)} at once beside {num_pinned} pinned")
        return self._queue[0] is turn and self._slots.has_room(wanted)

    def _load_ahead(self, tasks: Iterable[str], *, num_own: int = 0) -> None:
        """Start loading known tasks that have no slot, as far as there is room; the lock is held.

        The first `num_own` are left to the caller: to wake a thread takes longer than to load one.
        """
        admitted = self._slots.admit([self._folder.find(task) for task in tasks])
        for resident in admitted[num_own:]:
            self._executor.submit(self._load, resident)

    def _load(self, resident: Resident) -> None:
        """Bring a Submodel from disk into its slot, unless another thread does."""
        with self._changed:
            if resident.is_started:
                return
            resident.is_started = True
        started = time.perf_counter()
        try:
            self._fill(resident.slot, resident.file)
        except Exception as error:  # whoever waits for it raises it
            resident.error = error
        with self._changed:
            self._note(resident, time.perf_counter() - started)
            self._slots.finish(resident)
            self._changed.notify_all()

    def _fill(self, slot: int, file: File) -> None:
        submodel = self._folder.read(file)
        for name, table in self._tables.items():
            table[slot].copy_(submodel.weights[name])
        self._heads[slot] = replace(submodel, weights={})

    def _note(self, resident: Resident, seconds: float) -> None:
        """Count a load, and keep the reason why it failed."""
        counts = self._counts
        if resident.error is None:
            counts.loads += 1
            counts.load_seconds += seconds
            counts.load_seconds_max = max(counts.load_seconds_max, seconds)
            return
        counts.failures += 1
        if isinstance(resident.error, AdaptkitError):
            self._folder.spoil(resident.file, str(resident.error))

    def _wait_for(self, held: Sequence[Resident]) -> None:
        """Wait until all are loaded; raise what went wrong, the reasons together."""
        with self._changed:
            self._changed.wait_for(lambda: all(resident.is_done for resident in held))
        errors = [resident.error for resident in held if resident.error is not None]
        for error in errors:
            if not isinstance(error, AdaptkitError):
                raise error
        if errors:
            raise CheckpointError("\n".join(map(str, errors)))

    def _find_strange(self, wanted: Iterable[str]) -> dict[str, str]:
        """Give the tasks that cannot be used, and what is wrong with their files, if they have any."""
        return {task: self._folder.find_problem(task) for task in wanted if not self._folder.find(task)}

    def _explain(self, strange: Mapping[str, str]) -> str:
        known = self.known()
        return "\n".join(
            reason or f"{self._folder.path}: has no Submodel of '{task}'{nearest(task, known)}"
            for task, reason in strange.items()
        )

    def _too_few(self, num: int, what: str) -> ConfigError:
        return ConfigError(
            f"{num} Submodels of {self.bytes_each:,} bytes are to be in memory ({what}), and "
            f"{self.num_slots} may be; --submodel-mb {self.megabytes(num)} would do"
        )
