"""Append enrolled speakers to the adapter file of an experiment, once and whole."""

import fcntl
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from adaptkit import experiment
from adaptkit.adapters import api
from adaptkit.adapters.api import AdapterStack
from adaptkit.adapters.per_task import task_parameters
from adaptkit.base.checkpoint import BaseModel
from adaptkit.errors import CheckpointError, listed
from adaptkit.experiment import Experiment
from adaptkit.folders import RunFolder
from adaptkit.model import checkpoint
from adaptkit.model.checkpoint import AdapterFile
from adaptkit.records import Recorded, RunRecord, write_record
from adaptkit.tensors import read_tensors
from adaptkit.training.run import effort_of
from adaptkit.training.state import State


@dataclass(frozen=True)
class EnrollOptions:
    """Whom to enroll in which experiment, and where the result goes."""

    exp: Path  # the folder of trained adapters
    data: Path  # a data directory of the new speakers
    valid: Path | None = None  # one that chooses their best weights; None for those of the last step
    speakers: tuple[str, ...] = ()  # whom of the data directory; empty for all
    start: Literal["mean", "nearest", "new"] = "mean"  # of the known speakers; new: as any speaker starts
    out: Path | None = None  # None adds them to the adapter file of `exp` itself
    base: Path | None = None  # where the base model is, if not where the experiment says
    overrides: tuple[str, ...] = ()  # of the experiment's yaml, as in train.lr=0.01
    allow_pipes: bool = False

    @property
    def target(self) -> RunFolder:
        """The folder whose adapter file the speakers join."""
        return RunFolder(self.out or self.exp)


def refuse_known(tasks: Sequence[str], known: Sequence[str], path: Path) -> None:
    """Refuse to enroll speakers that the adapter file has already."""
    twice = sorted(set(tasks) & set(known))
    if twice:
        raise CheckpointError(
            f"{path}: knows {listed(twice)} already; name the new ones with --speaker, or train all anew"
        )


def find_target(options: EnrollOptions, owned: Collection[str]) -> AdapterFile:
    """Read the adapter file that new speakers join: that of OUT where it has one, else that of EXP.

    What they would be lost from, or would write over, is refused.
    """
    known, out = checkpoint.load(RunFolder(options.exp).adapter), options.target
    if options.out is None:
        _refuse_unfinished(out)
        return known
    others = [out.state, out.model]
    if not out.enrolled.exists():
        others += [out.adapter, out.config, out.record]
    found = [file.name for file in others if file.exists()]
    if found:
        raise CheckpointError(f"--out {out.path}: holds {listed(found)} of something else; give another")
    if not out.adapter.exists():
        return known
    bank = checkpoint.load(out.adapter)
    if not _has(bank, known, owned):
        raise CheckpointError(
            f"--out {out.path}: its adapter file is not of the speakers of {options.exp}; give another"
        )
    return bank


def _refuse_unfinished(exp: RunFolder) -> None:
    """Refuse an adapter file that its own training will write again, without the new speakers."""
    if exp.state.exists() and not read_tensors(exp.state)[1]["state"]["is_done"]:
        raise CheckpointError(
            f"{exp.path}: its training is not over and would write the adapter file anew; end it by "
            "'adaptkit train --resume', or give --out"
        )


def _has(bank: AdapterFile, part: AdapterFile, owned: Collection[str]) -> bool:
    """Whether an adapter file holds all speakers of another with the same weights."""
    is_same = (bank.adapters, bank.base_fingerprint) == (part.adapters, part.base_fingerprint)
    if not is_same or not set(part.tasks) <= set(bank.tasks):
        return False
    places = [bank.tasks.index(task) for task in part.tasks]
    return all(
        weight.equal(bank.weights[name][places] if name in owned else bank.weights[name])
        for name, weight in part.weights.items()
    )


def append(
    options: EnrollOptions,
    settings: Experiment,
    *,
    base: BaseModel,
    folder: RunFolder,
    state: State,
    device: str,
) -> None:
    """Append what was trained in `folder` to the adapter file as it is by now, unless it is there already."""
    new, target = checkpoint.load(folder.adapter), options.target
    owned = {name for name, _ in task_parameters(api.build(new.adapters, base.sites, new.tasks, seed=None))}
    with _locked(target.path):
        old = find_target(options, owned)
        bank = old
        if old.adapters == new.adapters and not set(old.tasks) & set(new.tasks):
            weights = {
                name: torch.cat([weight, new.weights[name]]) if name in owned else weight
                for name, weight in old.weights.items()
            }
            bank = replace(old, tasks=(*old.tasks, *new.tasks), weights=weights)
        if not _has(bank, new, owned):
            raise CheckpointError(
                f"{target.path}: its adapters were trained anew since {folder.path}; remove that first"
            )
        stack = api.build(bank.adapters, base.sites, bank.tasks, seed=None)
        if options.out is not None and not target.config.exists():
            experiment.save(settings, target.config)
        if bank is not old:
            checkpoint.save(target.adapter, stack, base.fingerprint, old.step, bank.weights)
        _record(options, settings, stack, base=base, state=state, num_new=len(new.tasks), device=device)


def _record(
    options: EnrollOptions,
    settings: Experiment,
    stack: AdapterStack,
    *,
    base: BaseModel,
    state: State,
    num_new: int,
    device: str,
) -> None:
    """Write `run.json` of what was enrolled into OUT, or count the new speakers in the one that is there."""
    target, num_each = options.target, stack.num_per_task
    if target.record.exists():
        run = RunRecord.read(target.record)
        more = num_each * (len(stack.tasks) - len(run.tasks))
        if more:
            counts = {"tasks": list(stack.tasks), "params_trainable": run.params_trainable + more}
            replace(run, **counts).write(target.record)
    elif options.out is not None:
        made = Recorded(settings.name, stack.kind, stack.tasks, num_each * num_new, num_each)
        write_record(
            target.path,
            made,
            base_fingerprint=base.fingerprint,
            params_base=base.num_parameters,
            device=device,
            effort=effort_of(state, settings.train.seed),
        )


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other processes from changing the adapter file of a folder at the same time."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".bank.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
