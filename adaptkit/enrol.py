"""Enrol new speakers: train what is theirs alone, everything else as it is: `adaptkit submodels add`.

With a table that is a slice of it, with a space the E numbers of each (see `adapters.per_task`). Several
speakers are enrolled in one job, in which none changes another's outcome.
"""

import fcntl
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

import torch
from torch import Tensor

from adaptkit import checkpoint, experiment
from adaptkit.adapters import api
from adaptkit.adapters.api import AdapterStack
from adaptkit.adapters.per_task import numbers_per_task, shared_parameters, task_parameters
from adaptkit.base import checkpoint as base_checkpoint
from adaptkit.base.checkpoint import BaseModel
from adaptkit.batches import load_batches, plan_batches
from adaptkit.errors import CheckpointError, ConfigError, DataError, listed, nearest
from adaptkit.examples import Examples, number_tasks
from adaptkit.experiment import Experiment
from adaptkit.loop import fit
from adaptkit.objective import Objective
from adaptkit.plan import Plan
from adaptkit.state import State
from adaptkit.train import (
    Trained,
    augmented,
    describe_contents,
    identify,
    in_processes,
    read_set,
    spec_of,
    write_record,
)

STARTS = ("mean", "nearest", "new")
_HEARD = 4  # utterances of a new speaker by which the nearest known one is found


@dataclass(frozen=True)
class Wanted:
    """Whom to enrol in what, and where the result goes."""

    exp: Path  # the folder of trained adapters
    data: Path  # a data directory of the new speakers
    valid: Path | None  # one that chooses their best weights; None for those of the last step
    speakers: tuple[str, ...]  # whom of the data directory; empty for all
    start: str  # mean of the known, the nearest of them, or new, as any speaker starts
    out: Path | None  # None adds them to the bank of `exp` itself
    overrides: tuple[str, ...]  # of the experiment's yaml, as in train.lr=0.01
    allow_pipes: bool


def add(wanted: Wanted, *, device: str) -> Path:
    """Train new speakers of an experiment and add them to its bank; give the folder that has it.

    A run that was stopped goes on; the bank is written once all is trained.
    """
    settings, path = _load_settings(wanted), wanted.exp / "adapter.safetensors"
    with in_processes(device):
        base = base_checkpoint.load(settings.base.dir, device)
        known = checkpoint.restore(checkpoint.load(path), base, path)
        train, valid = _read(wanted, base)
        _refuse_known(train.data.tasks, known.tasks, path)
        stack = start(known, train, wanted.start, seed=settings.train.seed)
        target = wanted.out or wanted.exp
        folder = target / "added" / _name(stack.tasks)

        def write(weights: Mapping[str, Tensor], step: int) -> None:
            experiment.save(settings, folder / "config.yaml")
            checkpoint.save(folder / "adapter.safetensors", stack, base.fingerprint, step, weights)

        def finish(state: State) -> None:
            _append(wanted, settings, base=base, folder=folder)
            tasks = checkpoint.load(target / "adapter.safetensors").tasks
            count = numbers_per_task(stack)
            trained = Trained(settings.name, stack.kind, tasks, count * len(stack.tasks), count)
            if wanted.out is not None:
                write_record(target, base, trained, state, settings.train)

        train = augmented(train, settings.augment, settings.train.seed)
        identity = {
            **identify(settings, "adapters", "augment", "train"),
            **describe_contents(train, valid),
            "base model": base.fingerprint,
            "start": wanted.start,
        }
        plan = Plan(train, valid, folder, settings.train, identity, write, finish)
        fit(Objective(base, stack, spec_of(train)), plan, resume=True)
    return target


def start(known: AdapterStack, train: Examples, where: str, *, seed: int) -> AdapterStack:
    """Build adapters of the new speakers alone, which share the frozen rest of those that are known.

    `where` is mean, nearest (the known speaker with whose weights the new one's first utterances have the
    lowest loss) or new.
    """
    tasks = train.data.tasks
    stack = api.build(known.configs, train.base.sites, tasks, seed).to(next(known.parameters()).device)
    shared, owned = dict(shared_parameters(known)), dict(task_parameters(known))
    with torch.no_grad():
        for name, parameter in shared_parameters(stack):
            parameter.copy_(shared[name])
            parameter.requires_grad_(False)
        for index, task in enumerate(tasks if where != "new" else ()):
            chosen = slice(None) if where == "mean" else [find_nearest(known, train, task)]
            for name, parameter in task_parameters(stack):
                parameter[index] = owned[name][chosen].mean(dim=0)
    return stack


def find_nearest(known: AdapterStack, train: Examples, task: str) -> int:
    """Find the known task with whose weights a new one's first utterances have the lowest loss."""
    own = [u.utt_id for u in train.data.utterances if u.task == task][:_HEARD]
    heard = train.without({u.utt_id for u in train.data.utterances} - {*own})
    objective = Objective(train.base, known).eval()
    heard = replace(heard, task_ids={task: 0}, augmentation=None)
    plan = plan_batches(heard.lengths, sum(heard.lengths) * len(heard), groups=heard.groups(known))
    device = next(train.base.model.parameters()).device
    losses = torch.zeros(len(known.tasks))
    with torch.inference_mode(), objective.hooked():
        for batch in load_batches(heard, plan):
            rows = objective.read_taps(batch.to(device))
            for index in range(len(known.tasks)):
                chosen = replace(rows, task_ids=(index,) * len(rows.utt_ids))
                losses[index] += float(objective(chosen)) * len(rows.utt_ids)
    return int(losses.argmin())


def _load_settings(wanted: Wanted) -> Experiment:
    if wanted.start not in STARTS:
        raise ConfigError(f"--start {wanted.start}: expected one of {', '.join(STARTS)}")
    other = [word for word in wanted.overrides if not word.startswith("train.")]
    if other:
        raise ConfigError(f"--set {other[0]}: new speakers are as the known ones but for train.*; drop it")
    if wanted.out is not None and wanted.out.resolve() == wanted.exp.resolve():
        raise ConfigError(f"--out {wanted.out}: is EXP itself; leave --out away to add to its bank")
    name = [] if wanted.out is None else [f"name={wanted.out.name}"]
    return experiment.load(wanted.exp / "config.yaml", [*wanted.overrides, *name])


def _read(wanted: Wanted, base: BaseModel) -> tuple[Examples, Examples | None]:
    """Read the new speakers' utterances, to train on and to validate with, each with its speaker's id."""
    train = read_set(wanted.data, base, allow_pipes=wanted.allow_pipes)
    unknown = [name for name in wanted.speakers if name not in train.data.tasks]
    if unknown:
        described = "; ".join(f"'{name}'{nearest(name, train.data.tasks)}" for name in unknown)
        raise DataError(f"{wanted.data}: has no speaker {described}")
    chosen = wanted.speakers or train.data.tasks
    train = _only(train, chosen)
    if wanted.valid is None:
        return train, None
    valid = _only(read_set(wanted.valid, base, allow_pipes=wanted.allow_pipes), chosen)
    if not len(valid):
        raise DataError(f"{wanted.valid}: has none of {listed(chosen)}; leave --valid away or give theirs")
    return train, replace(valid, task_ids=number_tasks(valid.data, train.data.tasks))


def _only(examples: Examples, tasks: Sequence[str]) -> Examples:
    others = {u.utt_id for u in examples.data.utterances if u.task not in tasks}
    kept = examples.without(others)
    return replace(kept, task_ids={task: index for index, task in enumerate(kept.data.tasks)})


def _refuse_known(tasks: Sequence[str], known: Sequence[str], path: Path) -> None:
    twice = sorted(set(tasks) & set(known))
    if twice:
        raise CheckpointError(
            f"{path}: knows {listed(twice)} already; name the new ones with --speaker, or train all anew"
        )


def _name(tasks: Sequence[str]) -> str:
    """Name the folder in which they are trained."""
    quoted = quote(tasks[0], safe="").replace(".", "%2E")
    if len(tasks) == 1 and len(quoted) <= 100:
        return quoted
    digest = hashlib.blake2b("\n".join(tasks).encode(), digest_size=6).hexdigest()
    return f"{len(tasks)}_speakers_{digest}"


def _append(wanted: Wanted, settings: Experiment, *, base: BaseModel, folder: Path) -> None:
    """Put what was trained in `folder` behind the bank of `exp`, as it is by now, and write it."""
    new, path = checkpoint.load(folder / "adapter.safetensors"), wanted.exp / "adapter.safetensors"
    target = wanted.out or wanted.exp
    with _locked(target):
        old = checkpoint.load(path)
        _refuse_known(new.tasks, old.tasks, path)
        tasks = (*old.tasks, *new.tasks)
        stack = api.build(old.adapters, base.sites, tasks, seed=None)
        owned = {name for name, _ in task_parameters(stack)}
        changed = [n for n, w in old.weights.items() if n not in owned and not w.equal(new.weights[n])]
        if old.adapters != new.adapters or changed:
            raise CheckpointError(
                f"{path}: was trained anew while speakers were added; remove {folder} and start over"
            )
        joined = {
            n: torch.cat([old.weights[n], new.weights[n]]) if n in owned else old.weights[n]
            for n in old.weights
        }
        checkpoint.save(target / "adapter.safetensors", stack, base.fingerprint, old.step, joined)
        if wanted.out is not None:
            experiment.save(settings, target / "config.yaml")


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other processes from changing the bank of a folder at the same time."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".bank.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
