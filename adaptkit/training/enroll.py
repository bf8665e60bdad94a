"""Enrol new speakers: train what is theirs alone, everything else as it is: `adaptkit submodels add`.

With a table that is a slice of it, with a space the E numbers of each (see `adapters.per_task`). Several
speakers are enrolled in one job, in which none changes another's outcome.

They are trained in `added/` of the folder whose bank they then join. What lies there is appended once: a run
that is over only looks whether the bank has its speakers, and appends them where it has not.
"""

import fcntl
import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

import torch
from torch import Tensor, distributed

from adaptkit import experiment
from adaptkit.adapters import api
from adaptkit.adapters.api import AdapterStack
from adaptkit.adapters.per_task import numbers_per_task, shared_parameters, task_parameters
from adaptkit.base import checkpoint as base_checkpoint
from adaptkit.base.checkpoint import BaseModel
from adaptkit.data.batches import load_batches, plan_batches
from adaptkit.data.dataset import Examples, number_tasks
from adaptkit.errors import CheckpointError, ConfigError, DataError, listed, nearest
from adaptkit.experiment import Experiment
from adaptkit.model import checkpoint
from adaptkit.model.adapted import Objective
from adaptkit.model.checkpoint import AdapterFile
from adaptkit.records import RunRecord
from adaptkit.training.augmentation import augmented, read_set, spec_of
from adaptkit.training.distributed import in_processes
from adaptkit.training.loop import fit
from adaptkit.training.plan import Plan
from adaptkit.training.resuming import describe_contents, identify
from adaptkit.training.run import warn_of_coupled_rows
from adaptkit.training.run_record import Recorded, write_record
from adaptkit.training.state import State, path_in

STARTS = ("mean", "nearest", "new")
_HEARD = 4  # utterances of a new speaker by which the nearest known one is found
_BANK = "adapter.safetensors"
_OF_VALIDATION = {"train.patience", "train.average", "train.valid_every"}


@dataclass(frozen=True)
class Wanted:
    """Whom to enrol in what, and where the result goes."""

    exp: Path  # the folder of trained adapters
    data: Path  # a data directory of the new speakers
    valid: Path | None  # one that chooses their best weights; None for those of the last step
    speakers: tuple[str, ...]  # whom of the data directory; empty for all
    start: str  # mean of the known, the nearest of them, or new, as any speaker starts
    out: Path | None  # None adds them to the bank of `exp` itself
    base: Path | None  # where the base model is, if not where the experiment says
    overrides: tuple[str, ...]  # of the experiment's yaml, as in train.lr=0.01
    allow_pipes: bool


def add(wanted: Wanted, *, device: str) -> Path:
    """Train new speakers of an experiment and add them to its bank; give the folder that has it.

    A run that was stopped goes on; the bank is written once all is trained.
    """
    settings, path, target = _load_settings(wanted), wanted.exp / _BANK, wanted.out or wanted.exp
    with in_processes(device):
        base = base_checkpoint.load(settings.base.dir, device)
        known = checkpoint.restore(checkpoint.load(path), base, path)
        owned = {name for name, _ in task_parameters(known)}
        if not owned:
            raise ConfigError(f"{path}: its speakers share all of {known.kind}; train it with per_task: true")
        train, valid = _read(wanted, base)
        warn_of_coupled_rows(base, train.data.tasks)
        folder = target / "added" / _name(train.data.tasks)
        bank = _find_bank(wanted, owned)
        if not path_in(folder).exists():
            _refuse_known(train.data.tasks, bank.tasks, target)
        stack = start(known, train, wanted.start, seed=settings.train.seed)

        def write(weights: Mapping[str, Tensor], step: int) -> None:
            experiment.save(settings, folder / "config.yaml")
            checkpoint.save(folder / _BANK, stack, base.fingerprint, step, weights)

        train = augmented(train, settings.augment, settings.train.seed)
        identity = {
            **identify(settings, "adapters", "augment", "train"),
            **describe_contents(train, valid),
            "base model": base.fingerprint,
            "start": wanted.start,
        }
        plan = Plan(train, valid, folder, settings.train, identity, write, finish=lambda state: None)
        state = fit(Objective(base, stack, spec_of(train)), plan, resume=True)
        if not distributed.is_initialized() or distributed.get_rank() == 0:
            _append(wanted, settings, base=base, folder=folder, state=state)
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
                losses[index] += float(objective(rows.of_task(index))) * len(rows.utt_ids)
    if not losses.isfinite().any():
        raise DataError(
            f"{train.data.path}: no known speaker's weights give {listed(own)} a finite loss; look at their "
            "audio and features, or take --start mean"
        )
    return int(losses.where(losses.isfinite(), torch.inf).argmin())


def _load_settings(wanted: Wanted) -> Experiment:
    if wanted.start not in STARTS:
        raise ConfigError(f"--start {wanted.start}: expected one of {', '.join(STARTS)}")
    other = [word for word in wanted.overrides if not word.startswith("train.")]
    if other:
        raise ConfigError(f"--set {other[0]}: new speakers are as the known ones but for train.*; drop it")
    if wanted.out is not None and wanted.out.resolve() == wanted.exp.resolve():
        raise ConfigError(f"--out {wanted.out}: is EXP itself; leave --out away to add to its bank")
    idle = [word for word in wanted.overrides if word.partition("=")[0] in _OF_VALIDATION]
    if idle and wanted.valid is None:
        raise ConfigError(f"--set {idle[0]}: nothing is validated without --valid; give that or drop it")
    changes = {} if wanted.base is None else {"base.dir": str(wanted.base)}
    if wanted.out is not None:
        changes["name"] = wanted.out.resolve().name
    return experiment.load(wanted.exp / "config.yaml", [*wanted.overrides, *experiment.setting(changes)])


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


def _find_bank(wanted: Wanted, owned: Collection[str]) -> AdapterFile:
    """Read the bank that new speakers join: that of OUT where it has one, else that of EXP.

    What they would be lost from, or would write over, is refused.
    """
    known = checkpoint.load(wanted.exp / _BANK)
    if wanted.out is None:
        _refuse_unfinished(wanted.exp)
        return known
    others = ["state.safetensors", "model.pth"]
    if not (wanted.out / "added").exists():
        others += [_BANK, "config.yaml", "run.json"]
    found = [name for name in others if (wanted.out / name).exists()]
    if found:
        raise CheckpointError(f"--out {wanted.out}: holds {listed(found)} of something else; give another")
    if not (wanted.out / _BANK).exists():
        return known
    bank = checkpoint.load(wanted.out / _BANK)
    if not _has(bank, known, owned):
        raise CheckpointError(f"--out {wanted.out}: not a bank of the speakers of {wanted.exp}; give another")
    return bank


def _refuse_unfinished(exp: Path) -> None:
    """Refuse a bank in place that its own training will write again, without the new speakers."""
    path = path_in(exp)
    if path.exists() and not checkpoint.read_tensors(path)[1]["state"]["is_done"]:
        raise CheckpointError(
            f"{exp}: its training is not over and would write the bank anew; end it by 'adaptkit train "
            "--resume', or give --out"
        )


def _has(bank: AdapterFile, part: AdapterFile, owned: Collection[str]) -> bool:
    """Tell whether a bank holds all speakers of another with the same weights."""
    is_same = (bank.adapters, bank.base_fingerprint) == (part.adapters, part.base_fingerprint)
    if not is_same or not set(part.tasks) <= set(bank.tasks):
        return False
    places = [bank.tasks.index(task) for task in part.tasks]
    return all(
        weight.equal(bank.weights[name][places] if name in owned else bank.weights[name])
        for name, weight in part.weights.items()
    )


def _append(wanted: Wanted, settings: Experiment, *, base: BaseModel, folder: Path, state: State) -> None:
    """Put what was trained in `folder` behind the bank, as that is by now, unless it is there already."""
    new, target = checkpoint.load(folder / _BANK), wanted.out or wanted.exp
    owned = {name for name, _ in task_parameters(api.build(new.adapters, base.sites, new.tasks, seed=None))}
    with _locked(target):
        old = _find_bank(wanted, owned)
        bank = old
        if old.adapters == new.adapters and not set(old.tasks) & set(new.tasks):
            weights = {
                name: torch.cat([weight, new.weights[name]]) if name in owned else weight
                for name, weight in old.weights.items()
            }
            bank = replace(old, tasks=(*old.tasks, *new.tasks), weights=weights)
        if not _has(bank, new, owned):
            raise CheckpointError(f"{target}: its bank was trained anew since {folder}; remove that first")
        stack = api.build(bank.adapters, base.sites, bank.tasks, seed=None)
        if wanted.out is not None and not (target / "config.yaml").exists():
            experiment.save(settings, target / "config.yaml")
        if bank is not old:
            checkpoint.save(target / _BANK, stack, base.fingerprint, old.step, bank.weights)
        _record(wanted, settings, stack, base=base, state=state, num_new=len(new.tasks))


def _record(
    wanted: Wanted, settings: Experiment, stack: AdapterStack, *, base: BaseModel, state: State, num_new: int
) -> None:
    """Leave `run.json` of what was enrolled in OUT, or count the new speakers in the one that is there."""
    target, num_each = wanted.out or wanted.exp, numbers_per_task(stack)
    path = target / "run.json"
    if path.exists():
        run = RunRecord.read(path)
        more = num_each * (len(stack.tasks) - len(run.tasks))
        if more:
            replace(run, tasks=list(stack.tasks), params_trainable=run.params_trainable + more).write(path)
    elif wanted.out is not None:
        made = Recorded(settings.name, stack.kind, stack.tasks, num_each * num_new, num_each)
        write_record(target, base, made, state, settings.train)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other processes from changing the bank of a folder at the same time."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".bank.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
