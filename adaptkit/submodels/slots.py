"""The slots of a cache of Submodels: their weights, which Submodel lies where, and which is evicted."""

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
    """A Submodel in a slot, or on its way there."""

    file: File
    slot: int
    num_holders: int = 0  # who use it, or wait for it
    is_started: bool = False
    is_done: bool = False  # loaded, or failed with `error`
    is_dropped: bool = False  # nobody finds it any more; the slot is free when its last holder leaves
    error: Exception | None = None


class Slots:
    """Places for `num_slots` Submodels; one that nobody holds and that is not pinned gives way to others.

    It has no lock of its own.
    """

    def __init__(self, num_slots: int):
        self.num_slots = num_slots
        self.pinned: set[str] = set()
        self.num_evicted = 0
        self.residents: OrderedDict[str, Resident] = OrderedDict()  # by task, the least recently used first
        self._free = list(range(num_slots - 1, -1, -1))

    def count_pinned_beside(self, tasks: Iterable[str]) -> int:
        """Count the other Submodels that will not give way."""
        return sum(task in self.residents for task in self.pinned.difference(tasks))

    def has_room(self, tasks: Collection[str]) -> bool:
        """Tell whether all these can be in slots at once, now."""
        num_missing = sum(task not in self.residents for task in tasks)
        return len(self._free) + len(self._find_idle(tasks, num_missing)) >= num_missing

    def admit(self, files: Sequence[File]) -> list[Resident]:
        """Give slots to Submodels that have none, as far as there is room; give those that are to be loaded.

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
        """Keep Submodels, which have slots, in them until their holder leaves."""
        held = [self.residents[task] for task in tasks]
        for resident in held:
            resident.num_holders += 1
        return held

    def leave(self, held: Iterable[Resident]) -> None:
        """Let go of Submodels again."""
        for resident in held:
            resident.num_holders -= 1
            self._free_slot(resident)

    def finish(self, resident: Resident) -> None:
        """Take note that one is loaded, or that it could not be: then it is gone."""
        resident.is_done = True
        if resident.error is not None and not resident.is_dropped:
            self.drop(resident.file.task)
        else:
            self._free_slot(resident)

    def drop(self, task: str) -> None:
        """Let nobody find a Submodel any more, if it is there; who holds it keeps it."""
        if task in self.residents:
            resident = self.residents.pop(task)
            resident.is_dropped = True
            self._free_slot(resident)

    def _free_slot(self, resident: Resident) -> None:
        if resident.is_dropped and resident.is_done and not resident.num_holders:
            self._free.append(resident.slot)

    def _find_idle(self, beside: Collection[str], most: int) -> list[Resident]:
        """Find Submodels that can give way, the least recently used first."""
        kept = self.pinned.union(beside)
        idle = (
            resident
            for task, resident in self.residents.items()
            if resident.is_done and not resident.num_holders and task not in kept
        )
        return list(islice(idle, max(0, most)))


@dataclass
class Counts:
    """What a cache has done so far."""

    hits: int = 0
    misses: int = 0
    waits: int = 0
    loads: int = 0
    failures: int = 0
    load_seconds: float = 0.0
    load_seconds_max: float = 0.0


@dataclass(frozen=True)
class CacheStats:
    """What a cache holds now, and what it has done since it was made."""

    num_slots: int
    num_known: int
    num_resident: int  # with those on their way
    num_pinned: int
    resident_bytes: int
    hits: int  # asked for and in a slot, or already on its way there
    misses: int
    waits: int  # times that somebody waited for slots that others held
    evictions: int
    loads: int
    failures: int  # loads that ended in an error
    load_seconds: float  # of all loads, from disk into the slot
    load_seconds_max: float


def build_slots(shared: Shared, base: BaseModel, num_slots: int) -> AdapterStack:
    """Build adapters with empty slots, and with the weights that all Submodels share."""
    one = api.build(shared.adapters, base.sites, ["one"], seed=None)
    one = one.to(next(base.model.parameters()).device)
    for part in owning_parts(one).values():
        for name, table in list(part.named_parameters(recurse=False)):
            setattr(part, name, nn.Parameter(_zeros(num_slots, table.detach()[0])))
    names = [f"slot {slot}" for slot in range(num_slots)]
    stack = AdapterStack(list(one), one.configs, names).eval().requires_grad_(False)
    weights = stack.state_dict()  # they are the stack's own, not copies
    for name, tensor in shared.weights.items():
        weights[name].copy_(tensor)
    return stack


def _zeros(num_slots: int, one: Tensor) -> Tensor:
    """Give zeros like `one` for each slot; on CPU memory is taken where something is written first.

    torch.zeros writes all of it, and numpy has it from calloc.
    """
    shape = (num_slots, *one.shape)
    return one.new_zeros(shape) if one.is_cuda else torch.from_numpy(np.zeros(shape, one.numpy().dtype))
