"""Folders of Submodels: export an experiment to one file per task, list them, and pack them again.

All files of a folder have the same configuration, base model and shared weights (`files.Shared`). A file that
does not match is reported with its problem; the others remain usable.
"""

import logging
import os
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from adaptkit import config, experiment, locks
from adaptkit.adapters import api
from adaptkit.adapters.per_task import SHARED, task_parameters
from adaptkit.base.checkpoint import BaseModel
from adaptkit.errors import CheckpointError, ConfigError, counted, listed, nearest
from adaptkit.experiment import Experiment
from adaptkit.folders import RunFolder
from adaptkit.model import checkpoint
from adaptkit.model.checkpoint import AdapterFile
from adaptkit.progress import counting
from adaptkit.records import Effort, RecordedModel, RunRecord, write_record
from adaptkit.submodels.compatibility import Compatibility, Entry, find_files, reason
from adaptkit.submodels.files import SHARED_FILE, Shared, Submodel, read_shared, write, write_shared
from adaptkit.tables import aligned

_LOG = logging.getLogger(__name__)
_THREADS = 8  # for reading and writing files, which mostly wait for the disk


@dataclass(frozen=True)
class Packed:
    """The result of packing Submodels: their tasks, and the files that were left out."""

    tasks: tuple[str, ...]
    left_out: tuple[Entry, ...]


def export(
    adapter_path: Path, base: BaseModel, folder: Path, *, tasks: Sequence[str] | None = None
) -> list[Path]:
    """Write the Submodels of all or some tasks to a folder; files of other tasks there are kept.

    Submodels that keep their start's weights, as no validation was better, are marked and logged.
    """
    if folder.resolve() == adapter_path.parent.resolve():
        raise ConfigError(f"{folder}: holds the experiment itself; choose a separate folder for Submodels")
    file = checkpoint.load(adapter_path)
    stack = checkpoint.restore(file, base, adapter_path)
    own = {name for name, _ in task_parameters(stack)}
    rest = {name: weight for name, weight in file.weights.items() if name not in own}
    shared = Shared(file.adapters, file.base_fingerprint, rest)
    numbers = {task: index for index, task in enumerate(file.tasks)}
    chosen = file.tasks if tasks is None else _refuse_unknown(tasks, numbers, adapter_path)
    with locks.hold(folder, wait=True):
        _start(folder, shared)
        submodels = (_cut(file, shared, numbers[task]) for task in chosen)
        paths = []
        with counting("exporting", len(chosen)) as advance, ThreadPoolExecutor(_THREADS) as pool:
            for path in pool.map(partial(write, folder), submodels):
                paths.append(path)
                advance(1, "")
    unimproved = set(file.unimproved)
    starts = [task for task in chosen if task in unimproved]
    if starts:
        what = "Submodels hold the weights of their start, as no validation was better"
        _LOG.warning("%s: %d of %d %s: %s", folder, len(starts), len(chosen), what, listed(starts))
    return paths


def scan(folder: Path, base: BaseModel | None = None) -> list[Entry]:
    """List the Submodels of a folder by task, from their headers only: damaged weights go unnoticed."""
    return _scan(folder, Compatibility(read_shared(folder), base))


def check(folder: Path, base: BaseModel | None = None) -> list[Entry]:
    """List the Submodels of a folder as `scan` does, but also read their weights."""
    return [entry for entry, _ in _open_all(folder, read_shared(folder), base)]


def pack(folder: Path, base: BaseModel, out: Path, *, skip_problems: bool = False) -> Packed:
    """Make an experiment of all Submodels of a folder, equivalent to the one they were exported from.

    Files with a problem are left out if `skip_problems`; otherwise they are one CheckpointError that lists
    all.
    """
    shared = read_shared(folder)
    settings = _settings(shared, base, folder=folder, out=out)
    opened = _open_all(folder, shared, base)
    left_out = tuple(entry for entry, submodel in opened if submodel is None)
    if left_out and not skip_problems:
        lines = [f"{entry.path}: {entry.problem}" for entry in left_out]
        raise CheckpointError("\n  ".join([f"{folder}: {counted(len(left_out), 'problem')}:", *lines]))
    usable = [submodel for _, submodel in opened if submodel is not None]
    if not usable:
        raise CheckpointError(f"{folder}: has no Submodel to pack; 'adaptkit submodels export' writes them")
    file = _stack(usable, shared)
    stack = checkpoint.restore(file, base, folder)
    folder_out = RunFolder(out)
    kept, counts = file.unimproved, (stack.num_parameters, stack.num_per_task)
    made = RecordedModel(settings.name, stack.kind, stack.tasks, *counts, kept)
    with locks.hold(out):
        checkpoint.save(
            folder_out.adapter, stack, file.base_fingerprint, file.step, file.weights, unimproved=kept
        )
        write_record(
            out,
            made,
            base_fingerprint=base.fingerprint,
            params_base=base.num_parameters,
            device=str(next(base.model.parameters()).device),
            effort=Effort(steps=file.step),
        )
        experiment.save(settings, folder_out.config)  # last, so that what an interruption leaves is replaced
    return Packed(file.tasks, left_out)


def format_entries(entries: Sequence[Entry]) -> str:
    """Format the files of a folder as a table."""
    rows = [["speaker", "adapter", "base", "weights", "parameters", "bytes"], *map(_cells, entries)]
    problems = ["problem", *(entry.problem for entry in entries)]
    lines = aligned(rows, left=4).split("\n")
    return "\n".join(f"{line}  {problem}".rstrip() for line, problem in zip(lines, problems, strict=True))


def summarise(entries: Sequence[Entry]) -> str:
    """Summarise the files of a folder in one line."""
    others = describe_fallback([entry.task for entry in entries if not entry.problem])
    num_bytes = sum(entry.num_bytes for entry in entries)
    num_problems = sum(bool(entry.problem) for entry in entries)
    number = counted(len(entries), "Submodel")
    return f"{number} of {num_bytes:,} bytes, {num_problems} with a problem{others}"


def describe_fallback(tasks: Collection[str]) -> str:
    """Describe whom the shared Submodel serves, if it is among `tasks`, as the end of a message.

    >>> describe_fallback(["ann", "shared"])
    "; 'shared' serves speakers without one"
    """
    return f"; '{SHARED}' serves speakers without one" if SHARED in tasks else ""


def _refuse_unknown(tasks: Sequence[str], known: Collection[str], path: Path) -> Sequence[str]:
    """Return the tasks without duplicates; refuse those that the experiment does not have."""
    unknown = [f"{task!r}{nearest(task, known)}" for task in tasks if task not in known]
    if unknown:
        raise ConfigError(f"{path}: has no speaker {listed(unknown)}{describe_fallback(known)}")
    return list(dict.fromkeys(tasks))


def _start(folder: Path, shared: Shared) -> None:
    """Write the shared weights of a folder, or compare them with those already there."""
    if not os.path.lexists(folder / SHARED_FILE):
        write_shared(folder, shared)
        return
    difference = read_shared(folder).difference(shared)
    if difference:
        raise CheckpointError(
            f"{folder}: its Submodels do not match these, which are {difference}; choose another folder"
        )


def _scan(folder: Path, compatibility: Compatibility) -> list[Entry]:
    return sorted(
        map(compatibility.inspect, find_files(folder)), key=lambda entry: (entry.task, entry.path.name)
    )


def _cut(file: AdapterFile, shared: Shared, number: int) -> Submodel:
    """Slice the Submodel of one task out of an experiment's weights."""
    own = {name: weight[number] for name, weight in file.weights.items() if name not in shared.weights}
    task = file.tasks[number]
    return Submodel(
        task=task,
        adapters=file.adapters,
        base_fingerprint=file.base_fingerprint,
        shared=shared.fingerprint,
        step=file.step,
        weights=own,
        unimproved=task in file.unimproved,
    )


def _open_all(folder: Path, shared: Shared, base: BaseModel | None) -> list[tuple[Entry, Submodel | None]]:
    """Read the Submodels of a folder with their weights; None stands for one with a problem."""
    compatibility = Compatibility(shared, base)
    if base is not None and base.fingerprint == shared.base_fingerprint:
        stack = api.build(shared.adapters, base.sites, ("one",), seed=None)
        shapes = {name: weight.shape[1:] for name, weight in task_parameters(stack)}
        compatibility = Compatibility(shared, base, shapes)
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(partial(_open, compatibility), _scan(folder, compatibility)))


def _open(compatibility: Compatibility, entry: Entry) -> tuple[Entry, Submodel | None]:
    if entry.problem:
        return entry, None
    try:
        return entry, compatibility.read(entry.path)
    except CheckpointError as error:
        return replace(entry, problem=reason(entry.path, error)), None


def _settings(shared: Shared, base: BaseModel, *, folder: Path, out: Path) -> Experiment:
    """Return the settings of the packed experiment; checked before anything is written."""
    if shared.base_fingerprint != base.fingerprint:
        raise CheckpointError(
            f"{folder}: Submodels for base model {shared.base_fingerprint}, but {base.path} is "
            f"{base.fingerprint}; set --base to the folder of the right one"
        )
    run = RunFolder(out)
    others = (run.log, run.model, run.enrolled, out / SHARED_FILE)
    taken = next((file.name for file in others if file.exists()), None)
    if taken:
        raise ConfigError(f"{out}: holds {taken}, which packing would invalidate; choose another folder")
    if run.config.exists() and not (run.record.exists() and RunRecord.read(run.record).is_packed):
        what = "holds an experiment that was not packed and would be replaced"
        raise ConfigError(f"{out}: {what}; choose another folder")
    adapters = [config.dump(entry) for entry in shared.adapters]
    content = {"name": out.resolve().name, "base": {"dir": str(base.path)}, "adapters": adapters}
    return config.check(Experiment, content, str(out))


def _stack(submodels: Sequence[Submodel], shared: Shared) -> AdapterFile:
    """Stack Submodels along the task axis."""
    names = submodels[0].weights
    stacked = {name: torch.stack([submodel.weights[name] for submodel in submodels]) for name in names}
    return AdapterFile(
        adapters=shared.adapters,
        tasks=tuple(submodel.task for submodel in submodels),
        base_fingerprint=shared.base_fingerprint,
        step=max(submodel.step for submodel in submodels),
        weights={**stacked, **shared.weights},
        unimproved=tuple(submodel.task for submodel in submodels if submodel.unimproved),
    )


def _cells(entry: Entry) -> list[str]:
    task = entry.task if entry.task.isprintable() else ascii(entry.task)
    weights = "of the start" if entry.unimproved else "trained"
    counts = (f"{entry.num_parameters:,}", f"{entry.num_bytes:,}")
    return [task, entry.kind, entry.base_fingerprint, weights, *counts]
