"""Training an experiment: read its data, build what is trained, run the loop, leave a record."""

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, distributed

from adaptkit import batches, checkpoint, config, experiment, record, text
from adaptkit.adapters import api
from adaptkit.adapters.per_task import task_parameters
from adaptkit.base import build, new
from adaptkit.base import checkpoint as base_checkpoint
from adaptkit.base.checkpoint import BaseModel
from adaptkit.batches import Examples
from adaptkit.errors import ConfigError, DataError, listed
from adaptkit.experiment import Experiment, Training
from adaptkit.loop import Plan, State, fit
from adaptkit.objective import Objective, seed_everything

_LOG = logging.getLogger(__name__)
_MOST_SKIPPED = 0.05  # of the utterances


@dataclass(frozen=True)
class Trained:
    """What a run trains, as its record tells it."""

    kind: str
    tasks: tuple[str, ...]
    num_parameters: int
    num_per_task: int


def train_adapters(settings: Experiment, folder: Path, *, device: str, resume: bool = False) -> None:
    """Train the adapters of an experiment on its base model; the base stays as it is, bit for bit."""
    if settings.data is None or not settings.adapters:
        raise ConfigError(
            f"experiment '{settings.name}': needs 'data' (train, valid) and 'adapters' to train"
        )
    with _processes() as rank:
        base = base_checkpoint.load(settings.base.dir, device)
        train, valid = _read(settings.data.train, base), _read(settings.data.valid, base)
        tasks = train.data.tasks
        train, valid = (
            replace(part, task_ids=batches.number_tasks(part.data, tasks)) for part in (train, valid)
        )
        adapters = api.build(settings.adapters, base.sites, tasks, settings.train.seed).to(device)

        def write(weights: Mapping[str, Tensor], step: int) -> None:
            checkpoint.save(folder / "adapter.safetensors", adapters, base.fingerprint, step, weights)

        identity = {
            **_identity(settings, "data", "adapters", "train"),
            "base": base.fingerprint,
            "tasks": tasks,
        }
        plan = Plan(train, valid, folder, settings.train, identity, write)
        if rank == 0:
            experiment.save(settings, folder / "config.yaml")
        state = fit(Objective(base, adapters), plan, resume=resume)
        if rank == 0:
            per_task = sum(parameter.numel() for _, parameter in task_parameters(adapters)) // len(tasks)
            trained = Trained(adapters.kind, adapters.tasks, _count(adapters), per_task)
            _write_record(folder, base, trained, state, settings.train)


def train_base(settings: Experiment, *, device: str, resume: bool = False) -> None:
    """Train a base model from scratch, by the same loop with everything unfrozen."""
    wanted = settings.base
    if wanted.data is None or wanted.model is None:
        raise ConfigError("base: needs 'model' (ESPnet's yaml) and 'data' (train, valid) to be trained")
    with _processes() as rank:
        for turn in (
            True,
            False,
        ):  # the first process writes tokens and statistics before the others read them
            if (rank == 0) == turn:
                model_config = new.describe(wanted.model, wanted.data.train, wanted.dir, wanted.tokens)
            if distributed.is_initialized():
                distributed.barrier()
        seed_everything(wanted.train.seed, 0)
        base = base_checkpoint.wrap(wanted.dir, model_config, build.build(model_config).to(device))
        train, valid = _read(wanted.data.train, base), _read(wanted.data.valid, base)

        def write(weights: Mapping[str, Tensor], step: int) -> None:
            base_checkpoint.save(wanted.dir, model_config, weights)

        identity = {**_identity(settings, "base"), "model": _digest(model_config)}
        plan = Plan(train, valid, wanted.dir, wanted.train, identity, write)
        state = fit(Objective(base), plan, resume=resume)
        if rank == 0:
            trained = Trained("base", (), base.num_parameters, 0)
            _write_record(wanted.dir, base_checkpoint.load(wanted.dir), trained, state, wanted.train)


def _read(path: Path, base: BaseModel) -> Examples:
    """Read a set, every task left to the base so far, without the utterances too short to learn from."""
    examples = batches.read_examples(path, base)
    data = examples.data
    text.refuse_unknown(base.tokens, {u.utt_id: u.text for u in data.utterances}, str(path))
    reasons = batches.too_short(examples)
    if not reasons:
        return examples
    first = listed([f"{utt_id} ({reason})" for utt_id, reason in reasons.items()], 5)
    message = f"{path}: {len(reasons)} of {len(examples)} utterances are too short for their text: {first}"
    if len(reasons) > _MOST_SKIPPED * len(examples):
        raise DataError(f"{message}; more than {_MOST_SKIPPED:.0%} is an error: check the segments and texts")
    _LOG.warning("%s; they are left out", message)
    return examples.without(reasons)


@contextmanager
def _processes() -> Iterator[int]:
    """Join the processes that `torchrun` started, where it did; give this one's rank."""
    if "WORLD_SIZE" not in os.environ or int(os.environ["WORLD_SIZE"]) == 1:
        yield 0
        return
    distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield distributed.get_rank()
    finally:
        distributed.destroy_process_group()


def _identity(settings: Experiment, *sections: str) -> dict[str, str]:
    """Give the sections of a configuration that a resumed run must share, each as a digest."""
    resolved = config.dump(settings)
    return {section: _digest(resolved[section]) for section in sections}


def _digest(content: object) -> str:
    return hashlib.blake2b(
        json.dumps(content, sort_keys=True, default=str).encode(), digest_size=8
    ).hexdigest()


def _write_record(folder: Path, base: BaseModel, trained: Trained, state: State, settings: Training) -> None:
    """Leave `run.json` for the report."""
    record.RunRecord(
        name=folder.name,
        kind=trained.kind,
        tasks=list(trained.tasks),
        base_fingerprint=base.fingerprint,
        params_base=base.num_parameters,
        params_trainable=trained.num_parameters,
        params_per_task=trained.num_per_task,
        train_seconds=state.seconds,
        peak_mb=record.peak_memory_mb(),
        steps=state.step,
        seed=settings.seed,
        versions=record.collect_versions(),
        commit=record.find_commit(),
        command=record.command_line(),
    ).write(folder / "run.json")


def _count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
