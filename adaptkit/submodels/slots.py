"""The slots of the Submodel cache: their weights, their Submodels, and LRU eviction."""

from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import Tensor, nn

from adaptkit.adapters import api
from adaptkit.adapters.api import AdapterStack
from adaptkit.adapters.per_task import owning_parts
from adaptkit.base.checkpoint import BaseModel
from adaptkit.submodels.files import Shared
from adaptkit.submodels.folder import File


@dataclass(eq=False)
class Resident:
    """A Submodel in a slot, or being loaded into it."""

    file: File
    slot: int
    num_holders: int = 0  # batches that use it or wait for it
    is_done: bool = False  # loaded, or failed with `error`
    is_dropped: bool = False  # no longer available; the slot is freed when its last holder leaves
    error: Exception | None = None


class Slots:
    """Slots for Submodels with LRU eviction of those that are neither held nor pinned.

    Not thread-safe.
    """

    def __init__(self, num_slots: int):
        self.num_slots = num_slots
        self.pinned: set[str] = set()
        self.num_evicted = 0
        self.residents: OrderedDict[str, Resident] = OrderedDict()  # by task, least recently used first
        self._free = list(range(num_slots - 1, -1, -1))

    def count_pinned_beside(self, tasks: Iterable[str]) -> int:
        """Count the pinned Submodels other than `tasks`."""
        return sum(task in self.residents for task in self.pinned.difference(tasks))

    def has_room(self, tasks: Collection[str]) -> bool:
        """Return whether all these tasks fit into slots now."""
        num_missing = sum(task not in self.residents for task in tasks)
        return len(self._free) + len(self._find_idle(tasks, num_missing)) >= num_missing

    def admit(self, files: Sequence[File]) -> list[Resident]:
        """Assign slots to Submodels that have none, as far as there is room; return those to be loaded.

        All of them count as used now.
        """
        missing = [file for file in files if file.task not in self.residents]
        for victim in self._find_idle({file.task for file in files}, len(missing) - len(self._free)):
            self.num_evicted += 1
            self.drop(victim.file.task)
        admitted = [Resident(file, self._free.pop()) for file in missing[: len(self._free)]]
        self.residents.update({resident.file.task: resident for resident in admitted})
        for file in files:
            if file.task in self.residents:
                self.residents.move_to_end(file.task)
        return admitted

    def hold(self, tasks: Iterable[str]) -> list[Resident]:
        """Hold Submodels in their slots until `leave`."""
        held = [self.residents[task] for task in tasks]
        for resident in held:
            resident.num_holders += 1
        return held

    def leave(self, held: Iterable[Resident]) -> None:
        """Release held Submodels."""
        for resident in held:
            resident.num_holders -= 1
            self._free_slot(resident)

    def finish(self, resident: Resident) -> None:
        """Mark a Submodel as loaded; drop it if loading failed."""
        resident.is_done = True
        if resident.error is not None and not resident.is_dropped:
            self.drop(resident.file.task)
        else:
            self._free_slot(resident)

    def drop(self, task: str) -> None:
        """Make a Submodel unavailable, if present; its slot is freed once no batch holds it."""
        if task in self.residents:
            resident = self.residents.pop(task)
            resident.is_dropped = True
            self._free_slot(resident)

    def _free_slot(self, resident: Resident) -> None:
        if resident.is_dropped and resident.is_done and not resident.num_holders:
            self._free.append(resident.slot)

    def _find_idle(self, beside: Collection[str], most: int) -> list[Resident]:
        """Find Submodels that can be evicted, least recently used first."""
        kept = self.pinned.union(beside)
        idle = (
            resident
            for task, resident in self.residents.items()
            if resident.is_done and not resident.num_holders and task not in kept
        )
        return list(islice(idle, max(0, most)))


@dataclass
class Counts:
    """The counters of a cache."""

    hits: int = 0
    misses: int = 0
    waits: int = 0
    loads: int = 0
    failures: int = 0
    load_seconds: float = 0.0
    load_seconds_max: float = 0.0


@dataclass(frozen=True)
class CacheStats:
    """The contents of a cache and its counters since its creation."""

    num_slots: int
    num_known: int
    num_resident: int  # including those being loaded
    num_pinned: int
    resident_bytes: int
    hits: int  # requests for Submodels in a slot or already being loaded
    misses: int
    waits: int  # times that a caller waited for slots held by others
    evictions: int
    loads: int
    failures: int  # loads that ended in an error
    load_seconds: float  # total time of loads, from disk into the slot
    load_seconds_max: float


def build_slots(shared: Shared, base: BaseModel, num_slots: int) -> AdapterStack:
    """Build adapters with empty slots and with the shared weights of the Submodels."""
    one = api.build(shared.adapters, base.sites, ["one"], seed=None)
    one = one.to(next(base.model.parameters()).device)
    for part in owning_parts(one).values():
        for name, table in list(part.named_parameters(recurse=False)):
            setattr(part, name, nn.Parameter(_zeros(num_slots, table.detach()[0])))
    names = [f"slot {slot}" for slot in range(num_slots)]
    stack = AdapterStack(list(one), one.configs, names).eval().requires_grad_(False)
    weights = stack.state_dict()  # the stack's own tensors
    for name, tensor in shared.weights.items():
        weights[name].copy_(tensor)
    return stack


def _zeros(num_slots: int, one: Tensor) -> Tensor:
    """Return zeros like `one` for each slot; on CPU, memory is taken only when a slot is first written.

    torch.zeros writes to all of its memory, whereas numpy uses calloc.
    """
    shape = (num_slots, *one.shape)
    return one.new_zeros(shape) if one.is_cuda else torch.from_numpy(np.zeros(shape, one.numpy().dtype))
