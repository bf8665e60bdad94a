"""Time how Submodels come from disk into memory, and weigh what many of them take there."""

import os
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from adaptkit.adapters.api import AdapterConfig, AdapterStack
from adaptkit.adapters.per_task import shared_parameters, task_parameters
from adaptkit.base.checkpoint import BaseModel
from adaptkit.bench.steps import now
from adaptkit.bench.submodels import random_submodels
from adaptkit.errors import AdaptkitError
from adaptkit.submodels.cache import SubmodelCache
from adaptkit.submodels.files import Shared, Submodel, file_name, write, write_shared


@dataclass(frozen=True)
class Loading:
    """What it takes to bring a Submodel from disk into a slot."""

    num_loads: int
    bytes_each: int  # in memory
    median_ms: float
    p99_ms: float
    max_ms: float


@dataclass(frozen=True)
class Residents:
    """What Submodels take in memory."""

    num_submodels: int
    before_mib: float  # held by this process, base model included
    after_mib: float
    bytes_each: int  # of the weights alone


def time_loading(base: BaseModel, entry: AdapterConfig, *, num_files: int, num_loads: int) -> Loading:
    """Load Submodels in turn into a cache that holds half of them, so that none is in memory any more.

    Each file is dropped from the system's cache before, where the file system does that, and what has arrived
    is compared with what was written. The first load warms up.
    """
    names = [f"spk{k}" for k in range(max(2, num_files))]
    adapters = random_submodels(base, entry, names)
    bytes_each = _bytes_each(adapters)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_submodels(folder, base, adapters)
        cache = SubmodelCache(folder, base, budget_bytes=len(names) // 2 * bytes_each)
        try:
            taken = [time_load(cache, folder, adapters, load % len(names)) for load in range(num_loads + 1)]
            if cache.stats().loads != len(taken):
                raise AdaptkitError(f"{cache.stats().loads} of {len(taken)} loads were timed; report this")
        finally:
            cache.close()
    taken = sorted(1000 * seconds for seconds in taken[1:])
    return Loading(num_loads, bytes_each, statistics.median(taken), percentile_99(taken), taken[-1])


def weigh_residents(base: BaseModel, entry: AdapterConfig, num_submodels: int) -> Residents:
    """Keep Submodels in memory as the slots of a cache do, filled, since untouched pages take nothing."""
    device = next(base.model.parameters()).device
    before = _held_mib(device)
    adapters = random_submodels(base, entry, [f"spk{k}" for k in range(num_submodels)])
    return Residents(num_submodels, before, _held_mib(device), _bytes_each(adapters))


def write_submodels(folder: Path, base: BaseModel, adapters: AdapterStack) -> None:
    """Write a Submodel for each task, and what they share."""
    shared = Shared(adapters.configs, base.fingerprint, dict(shared_parameters(adapters)))
    write_shared(folder, shared)
    for index, task in enumerate(adapters.tasks):
        own = {name: table[index] for name, table in task_parameters(adapters)}
        write(folder, Submodel(task, adapters.configs, base.fingerprint, shared.fingerprint, 0, own))


def time_load(cache: SubmodelCache, folder: Path, adapters: AdapterStack, task: int) -> float:
    """Time the load of a task's Submodel, in seconds; what has arrived must be what `adapters` have."""
    name = adapters.tasks[task]
    _forget(folder / file_name(name))
    device = next(adapters.parameters()).device
    started = now(device)
    with cache.using([name]) as (slot,):
        seconds = now(device) - started
        pairs = zip(task_parameters(cache.stack), task_parameters(adapters), strict=True)
        if not all(torch.equal(there[slot], own[task]) for (_, there), (_, own) in pairs):
            raise AdaptkitError(f"the Submodel of {name} has not arrived as it was written; report this")
    return seconds


def percentile_99(ordered: Sequence[float]) -> float:
    """Give the smallest of rising numbers that at least 99 % of them do not exceed."""
    return ordered[-(-99 * len(ordered) // 100) - 1]


def _forget(path: Path) -> None:
    """Ask the system to drop a file from its cache."""
    with open(path, "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _bytes_each(adapters: AdapterStack) -> int:
    return sum(table[0].numel() * table.element_size() for _, table in task_parameters(adapters))


def _held_mib(device: torch.device) -> float:
    """Tell what is held in memory now: on a GPU by tensors, else by the whole process (man proc)."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device) / 2**20
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
