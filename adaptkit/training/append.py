"""Append enrolled speakers to the adapter file of an experiment, once and atomically."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
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
from adaptkit.records import Effort, RecordedModel, RunRecord, write_record
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
    counts = (num_each * len(new.tasks), num_each)
    made = RecordedModel(
        *(settings.name, stack.kind, stack.tasks, *counts, new.unimproved, metric),
        selection=summarise(state.choices),
    )
    effort = effort_of(state, settings.train.seed)
    if target.record.exists():
        run = RunRecord.read(target.record)
        if not set(new.tasks) <= set(run.tasks):
            _join(run, made, new.tasks, effort).write(target.record)
    elif options.out is not None:
        write_record(
            target.path,
            made,
            base_fingerprint=base.fingerprint,
            params_base=base.num_parameters,
            device=device,
            effort=effort,
        )


def _join(run: RunRecord, made: RecordedModel, new: Sequence[str], effort: Effort) -> RunRecord:
    """Return a record with the speakers of another enrolment; that of a training keeps its own effort."""
    tasks = {*run.tasks, *new}
    joined = replace(
        run,
        tasks=[task for task in made.tasks if task in tasks],
        params_trainable=run.params_trainable + made.num_trainable,
        params_per_task=made.num_per_task,
        unimproved=[*run.unimproved, *made.unimproved],
    )
    # a training has trained all speakers of its record, enrolments only their own
    if run.params_trainable >= run.params_per_task * len(run.tasks):
        return joined
    return replace(
        joined,
        train_seconds=run.train_seconds + effort.seconds,
        cpu_seconds=run.cpu_seconds + effort.cpu_seconds,
        peak_mb=max(run.peak_mb, effort.peak_mb),
        epochs=run.epochs + effort.epochs,
        steps=run.steps + effort.steps,
        valid_metric=run.valid_metric if run.valid_metric == made.valid_metric else "",
        selection=_add_counts(run.selection, made.selection),
    )


def _add_counts(
    some: Mapping[str, Mapping[str, int]], others: Mapping[str, Mapping[str, int]]
) -> dict[str, dict[str, int]]:
    """Add up the numbers of speakers by learning rate and by number of epochs, see `summarise`.

    >>> _add_counts({"lr": {"0.02": 1}, "epochs": {"4": 1}}, {"lr": {"0.01": 1}, "epochs": {"4": 1}})
    {'lr': {'0.01': 1, '0.02': 1}, 'epochs': {'4': 2}}
    """
    totals = {
        name: Counter(some.get(name, {})) + Counter(others.get(name, {})) for name in {**some, **others}
    }
    return {
        name: dict(sorted(total.items(), key=lambda count: float(count[0]))) for name, total in totals.items()
    }
