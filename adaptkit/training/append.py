"""Append enrolled speakers to the adapter file of an experiment, once and atomically."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from adaptkit import experiment, locks
from adaptkit.adapters import api
from adaptkit.adapters.api import AdapterStack
from adaptkit.adapters.per_task import task_parameters
from adaptkit.base.checkpoint import BaseModel
from adaptkit.errors import CheckpointError, listed
from adaptkit.experiment import Experiment
from adaptkit.files import read_regular, replacing
from adaptkit.folders import RunFolder
from adaptkit.model import checkpoint
from adaptkit.model.checkpoint import AdapterFile
from adaptkit.records import RecordedModel, RunRecord, write_record
from adaptkit.tensors import read_tensors
from adaptkit.training.enroll_options import EnrollOptions
from adaptkit.training.run import effort_of
from adaptkit.training.selection import summarise
from adaptkit.training.state import State, read_state


def refuse_known(tasks: Sequence[str], known: Sequence[str], path: Path) -> None:
    """Refuse to enroll speakers that are in the adapter file already."""
    twice = sorted(set(tasks) & set(known))
    if twice:
        raise CheckpointError(
            f"{path}: has {listed(twice)} already; select the new speakers with --speaker, or retrain all"
        )


def find_target(options: EnrollOptions, owned: Collection[str]) -> AdapterFile:
    """Read the adapter file that new speakers are added to: that of OUT if it exists, else that of EXP.

    Refuse an unfinished training, which would drop the new speakers, and an OUT that holds something else.
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
        raise CheckpointError(f"--out {out.path}: has {listed(found)} of another run; choose another folder")
    if not out.adapter.exists():
        return known
    present = checkpoint.load(out.adapter)
    if not _contains(present, known, owned):
        raise CheckpointError(
            f"--out {out.path}: its adapter file does not extend that of {options.exp}; choose another folder"
        )
    return present


def _refuse_unfinished(exp: RunFolder) -> None:
    """Refuse an adapter file that its own training would overwrite without the new speakers."""
    if exp.state.exists() and not read_state(read_tensors(exp.state)[1], exp.state).is_done:
        raise CheckpointError(
            f"{exp.path}: its training is unfinished and would overwrite the adapter file; finish it with "
            "'adaptkit train --resume', or set --out"
        )


def _contains(whole: AdapterFile, part: AdapterFile, owned: Collection[str]) -> bool:
    """Return whether an adapter file holds all speakers of another, with the same weights."""
    is_same = (whole.adapters, whole.base_fingerprint) == (part.adapters, part.base_fingerprint)
    if not is_same or not set(part.tasks) <= set(whole.tasks):
        return False
    places = [whole.tasks.index(task) for task in part.tasks]
    return all(
        weight.equal(whole.weights[name][places] if name in owned else whole.weights[name])
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
    metric: str,
) -> None:
    """Append the speakers trained in `folder` to the current adapter file, unless it has them already."""
    new, target = checkpoint.load(folder.adapter), options.target
    owned = {name for name, _ in task_parameters(api.build(new.adapters, base.sites, new.tasks, seed=None))}
    with locks.hold(target.path, wait=True):
        old = find_target(options, owned)
        joined = old
        if old.adapters == new.adapters and not set(old.tasks) & set(new.tasks):
            weights = {
                name: torch.cat([weight, new.weights[name]]) if name in owned else weight
                for name, weight in old.weights.items()
            }
            unimproved = (*old.unimproved, *new.unimproved)
            joined = replace(old, tasks=(*old.tasks, *new.tasks), weights=weights, unimproved=unimproved)
        if not _contains(joined, new, owned):
            raise CheckpointError(
                f"{target.path}: its adapters were retrained after {folder.path}; remove the latter"
            )
        stack = api.build(joined.adapters, base.sites, joined.tasks, seed=None)
        if options.out is not None and not target.config.exists():
            own = experiment.load(RunFolder(options.exp).config, options.words_of_out)
            experiment.save(own, target.config)
        _copy_start(RunFolder(options.exp), target)
        if joined is not old:
            kept = joined.unimproved
            checkpoint.save(
                target.adapter, stack, base.fingerprint, old.step, joined.weights, unimproved=kept
            )
        _record(options, settings, stack, base=base, state=state, new=new, device=device, metric=metric)


def _copy_start(exp: RunFolder, out: RunFolder) -> None:
    """Copy what the experiment started from, so that more speakers can be enrolled in OUT from there."""
    if exp.start.exists() and not out.start.exists():
        with replacing(out.start) as temporary:
            Path(temporary).write_bytes(read_regular(exp.start))


def _record(
    options: EnrollOptions,
    settings: Experiment,
    stack: AdapterStack,
    *,
    base: BaseModel,
    state: State,
    new: AdapterFile,
    device: str,
    metric: str,
) -> None:
    """Write `run.json` of an enrolment into OUT, or add the new speakers to the existing one."""
    target, num_each = options.target, stack.num_per_task
    if target.record.exists():
        run = RunRecord.read(target.record)
        more = num_each * (len(stack.tasks) - len(run.tasks))
        if more:
            replace(
                run,
                tasks=list(stack.tasks),
                params_trainable=run.params_trainable + more,
                params_per_task=num_each,
                unimproved=[*run.unimproved, *new.unimproved],
            ).write(target.record)
    elif options.out is not None:
        num_new = num_each * len(new.tasks)
        counts = (num_new, num_each)
        made = RecordedModel(
            *(settings.name, stack.kind, stack.tasks, *counts, new.unimproved, metric),
            selection=summarise(state.choices),
        )
        write_record(
            target.path,
            made,
            base_fingerprint=base.fingerprint,
            params_base=base.num_parameters,
            device=device,
            effort=effort_of(state, settings.train.seed),
        )
