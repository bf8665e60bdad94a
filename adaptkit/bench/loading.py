"""Time the loading of Submodels from disk, and measure the memory that many of them take."""

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
from adaptkit.bench.submodels import random_submodels
from adaptkit.bench.timed import now
from adaptkit.errors import AdaptkitError
from adaptkit.submodels.cache import SubmodelCache
from adaptkit.submodels.files import Shared, Submodel, file_name, write, write_shared


@dataclass(frozen=True)
class Loading:
    """Times for loading a Submodel from disk into a slot."""

    num_loads: int
    bytes_each: int  # in memory
    median_ms: float
    p99_ms: float
    max_ms: float


@dataclass(frozen=True)
class Residents:
    """The memory taken by Submodels."""

    num_submodels: int
    before_mib: float  # memory of this process, including the base model
    after_mib: float
    bytes_each: int  # size of the weights


def time_loading(base: BaseModel, entry: AdapterConfig, *, num_files: int, num_loads: int) -> Loading:
    """Load Submodels in turn into a cache that holds half of them, so that every load is a miss.

    Each file is dropped from the page cache first, if the file system supports that, and the loaded weights
    are compared with the written ones. The first load is a warm-up.
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


def measure_residents(base: BaseModel, entry: AdapterConfig, num_submodels: int) -> Residents:
    """Measure the memory of filled cache slots; untouched pages would take none."""
    device = next(base.model.parameters()).device
    before = _held_mib(device)
    adapters = random_submodels(base, entry, [f"spk{k}" for k in range(num_submodels)])
    return Residents(num_submodels, before, _held_mib(device), _bytes_each(adapters))


def write_submodels(folder: Path, base: BaseModel, adapters: AdapterStack) -> None:
    """Write a Submodel for each task, and their shared weights."""
    shared = Shared(adapters.configs, base.fingerprint, dict(shared_parameters(adapters)))
    write_shared(folder, shared)
    for index, task in enumerate(adapters.tasks):
        own = {name: table[index] for name, table in task_parameters(adapters)}
        write(folder, Submodel(task, adapters.configs, base.fingerprint, shared.fingerprint, 0, own))


def time_load(cache: SubmodelCache, folder: Path, adapters: AdapterStack, task: int) -> float:
    """Time the load of a task's Submodel, in seconds, and check the loaded weights against `adapters`."""
    name = adapters.tasks[task]
    _forget(folder / file_name(name))
    device = next(adapters.parameters()).device
    started = now(device)
    with cache.using([name]) as (slot,):
        seconds = now(device) - started
        pairs = zip(task_parameters(cache.stack), task_parameters(adapters), strict=True)
        if not all(torch.equal(there[slot], own[task]) for (_, there), (_, own) in pairs):
            raise AdaptkitError(f"the loaded Submodel of {name} differs from the written one; report this")
    return seconds


def percentile_99(ordered: Sequence[float]) -> float:
    """Return the 99th percentile of sorted numbers: the smallest that at least 99 % do not exceed."""
    return ordered[-(-99 * len(ordered) // 100) - 1]


def _forget(path: Path) -> None:
    """Ask the system to drop a file from its page cache."""
    with open(path, "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _bytes_each(adapters: AdapterStack) -> int:
    return sum(table[0].numel() * table.element_size() for _, table in task_parameters(adapters))


def _held_mib(device: torch.device) -> float:
    """Return the memory in use: by tensors on a GPU, else by the whole process (man proc)."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device) / 2**20
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
