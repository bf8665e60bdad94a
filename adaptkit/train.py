"""Training an experiment: read its data, build what is trained, run the loop, leave a record."""

import hashlib
import json
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, distributed

from adaptkit import checkpoint, config, experiment, record, text
from adaptkit.adapters import api
from adaptkit.adapters.api import AdapterStack
from adaptkit.adapters.per_task import numbers_per_task
from adaptkit.augment import at_work
from adaptkit.augment.policy import Policy
from adaptkit.augment.spec import SpecAugment
from adaptkit.base import build, new, specaug
from adaptkit.base import checkpoint as base_checkpoint
from adaptkit.base.checkpoint import BaseModel
from adaptkit.errors import CheckpointError, ConfigError, DataError, listed
from adaptkit.examples import Examples, number_tasks, read_examples, refuse_other_features, too_short
from adaptkit.experiment import Experiment, Sets, Training
from adaptkit.loop import fit
from adaptkit.objective import Objective, seed_everything
from adaptkit.plan import Plan
from adaptkit.state import State, path_in, refuse_another

_LOG = logging.getLogger(__name__)
_MOST_SKIPPED = 0.05  # of the utterances
_VALIDATION_MOST = timedelta(hours=6)  # in the first process, while the others wait
_CHANGES_NOTHING = ("num_workers", "save_every_steps")  # in what a run makes, so a resumed one may differ


@dataclass(frozen=True)
class Trained:
    """What a run trains, as its record tells it."""

    name: str
    kind: str
    tasks: tuple[str, ...]
    num_parameters: int
    num_per_task: int


def train_adapters(
    settings: Experiment,
    folder: Path,
    *,
    device: str,
    resume: bool = False,
    start: Path | None = None,
    allow_pipes: bool = False,
) -> None:
    """Train the adapters of an experiment on its base model; the base stays as it is, bit for bit.

    Their first weights are those of the adapter file `start`, where it is given.
    """
    if settings.data is None or not settings.adapters:
        raise ConfigError(
            f"experiment '{settings.name}': needs 'data' (train, valid) and 'adapters' to train"
        )
    with in_processes(device):
        refuse_another(folder, resume=resume)
        base = base_checkpoint.load(settings.base.dir, device)
        train, valid = _read_sets(settings.data, base, allow_pipes)
        train = augmented(train, settings.augment, settings.train.seed)
        tasks = train.data.tasks
        train, valid = (replace(part, task_ids=number_tasks(part.data, tasks)) for part in (train, valid))
        adapters = api.build(settings.adapters, base.sites, tasks, settings.train.seed).to(device)
        started_from = {} if start is None else _take_over(start, adapters, base)
        warn_of_coupled_rows(base, tasks)

        def write(weights: Mapping[str, Tensor], step: int) -> None:
            experiment.save(settings, folder / "config.yaml")
            checkpoint.save(folder / "adapter.safetensors", adapters, base.fingerprint, step, weights)

        def finish(state: State) -> None:
            num_parameters = sum(parameter.numel() for parameter in adapters.parameters())
            numbers = (num_parameters, numbers_per_task(adapters))
            trained = Trained(settings.name, adapters.kind, adapters.tasks, *numbers)
            write_record(folder, base, trained, state, settings.train)

        identity = {
            **identify(settings, "data", "adapters", "augment", "train"),
            **describe_contents(train, valid),
            "base model": base.fingerprint,
            **({"SpecAugment of the model's yaml": str(spec_of(train))} if settings.augment == "own" else {}),
            **started_from,
        }
        fit(
            Objective(base, adapters, spec_of(train)),
            Plan(train, valid, folder, settings.train, identity, write, finish),
            resume=resume,
        )


def train_base(settings: Experiment, *, device: str, resume: bool = False, allow_pipes: bool = False) -> None:
    """Train a base model from scratch, by the same loop with everything unfrozen."""
    wanted = settings.base
    if wanted.data is None or wanted.model is None:
        raise ConfigError("base: needs 'model' (ESPnet's yaml) and 'data' (train, valid) to be trained")
    folder = wanted.dir
    with in_processes(device):
        refuse_another(folder, resume=resume)
        model_config = _describe(settings)
        seed_everything(wanted.train.seed, 0)
        base = base_checkpoint.wrap(folder, model_config, build.build(model_config).to(device))
        train, valid = _read_sets(wanted.data, base, allow_pipes)
        train = augmented(train, wanted.augment, wanted.train.seed)
        model_config = _tell_augmentation(model_config, train)

        def write(weights: Mapping[str, Tensor], step: int) -> None:
            base_checkpoint.save(folder, model_config, weights)

        def finish(state: State) -> None:
            trained = Trained(wanted.name, "base", (), base.num_parameters, 0)
            write_record(folder, base_checkpoint.load(folder), trained, state, wanted.train)

        identity = {
            **identify(settings, "base"),
            **describe_contents(train, valid),
            "model": _digest(config.read_yaml(wanted.model)),
        }
        plan = Plan(train, valid, folder, wanted.train, identity, write, finish)
        fit(Objective(base, spec=spec_of(train)), plan, resume=resume)


def warn_of_coupled_rows(base: BaseModel, tasks: Sequence[str]) -> None:
    """Warn where the base model's own loss keeps one job from being as many."""
    is_coupled = base.config["model_conf"].get("length_normalized_loss") and base.model.ctc_weight < 1
    if is_coupled and len(tasks) > 1:
        what = "weighs an utterance by the others of its batch, so no task is trained as in a job of its own"
        _LOG.warning("%s: its length_normalized_loss %s", base.path, what)


def _take_over(path: Path, adapters: AdapterStack, base: BaseModel) -> dict[str, str]:
    """Give adapters the weights of a file of the same base model and tasks, and say which file it was."""
    file = checkpoint.load(path)
    if file.tasks != adapters.tasks:
        raise CheckpointError(
            f"{path}: its tasks are {listed(file.tasks)}, and those of the training set are "
            f"{listed(adapters.tasks)}; start from adapters of the same tasks"
        )
    weights = checkpoint.restore(file, base, path).state_dict()
    base_checkpoint.load_strictly(adapters, weights, path)
    return {"start": hashlib.blake2b(path.read_bytes(), digest_size=8).hexdigest()}


def _describe(settings: Experiment) -> dict[str, Any]:
    """Describe the model of a new run, in the first process, or read how a run to be resumed did.

    A resumed run leaves tokens and statistics as they are, even where the data have changed since.
    """
    wanted = settings.base
    if path_in(wanted.dir).exists():
        return config.read_yaml(wanted.dir / "config.yaml")
    described: list[dict[str, Any] | None] = [None]
    if not distributed.is_initialized() or distributed.get_rank() == 0:
        described = [new.describe(wanted.model, wanted.data.train, wanted.dir, wanted.tokens)]
        config.write_yaml(wanted.dir / "config.yaml", described[0])
    if distributed.is_initialized():
        distributed.broadcast_object_list(described)
    return described[0]


def _read_sets(sets: Sets, base: BaseModel, allow_pipes: bool) -> list[Examples]:
    return [read_set(path, base, allow_pipes=allow_pipes) for path in (sets.train, sets.valid)]


def read_set(path: Path, base: BaseModel, *, allow_pipes: bool = False) -> Examples:
    """Read a set, every task left to the base so far, without the utterances too short to learn from."""
    examples = read_examples(path, base, allow_pipes=allow_pipes)
    data = examples.data
    text.refuse_unknown(base.tokens, {u.utt_id: u.text for u in data.utterances}, str(path))
    reasons = too_short(examples)
    if not reasons:
        return examples
    first = listed([f"{utt_id} ({reason})" for utt_id, reason in reasons.items()], 5)
    message = f"{path}: {len(reasons)} of {len(examples)} utterances are too short for their text: {first}"
    if len(reasons) > _MOST_SKIPPED * len(examples):
        raise DataError(f"{message}; more than {_MOST_SKIPPED:.0%} is an error: check the segments and texts")
    _LOG.warning("%s; they are left out", message)
    return examples.without(reasons)


def augmented(train: Examples, policy: Policy | Literal["own"] | None, seed: int) -> Examples:
    """Augment a training set by a policy, or by the SpecAugment of the base model's own yaml.

    Noisy features must differ from the extracted ones in nothing but the noise, so those are looked at.
    """
    if policy == "own":
        policy = Policy(spec=specaug.translate(train.base.config))
        described = policy.spec.model_dump(exclude_defaults=True) if policy.spec else "none"
        _LOG.info("SpecAugment of the model's own yaml: %s", described)
    working = at_work.start(policy, seed, train.base.rate_hz) if policy else None
    train = replace(train, augmentation=working)
    if working and working.bank:
        refuse_other_features(train)
    if working and policy.spec and policy.spec.fill == "zero" and train.base.model.normalize is None:
        _LOG.warning(
            "the base model does not normalise features, so masks of zeros are not their mean; fill: mean is"
        )
    return train


def _tell_augmentation(model_config: Mapping[str, Any], train: Examples) -> dict[str, Any]:
    """Write what a base model is trained under into adaptkit's own section of its yaml."""
    policy = config.dump(train.augmentation.policy) if train.augmentation else None
    return {**model_config, "adaptkit": {**(model_config.get("adaptkit") or {}), "augment": policy}}


def spec_of(train: Examples) -> SpecAugment | None:
    """Give the masks of a training set."""
    return train.augmentation.policy.spec if train.augmentation else None


@contextmanager
def in_processes(device: str) -> Iterator[None]:
    """Join the processes that `torchrun` started, where it did and they have not met yet."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or distributed.is_initialized():
        yield
        return
    is_cuda = torch.device(device).type == "cuda"
    if is_cuda:
        torch.cuda.set_device(device)  # where nccl puts what it sends
    distributed.init_process_group("nccl" if is_cuda else "gloo", timeout=_VALIDATION_MOST)
    try:
        yield
    finally:
        distributed.destroy_process_group()


def identify(settings: Experiment, *sections: str) -> dict[str, Any]:
    """Give the full keys and values of a configuration that a resumed run must share."""
    resolved = config.dump(settings)
    leaves = dict(_leaves({section: resolved[section] for section in sections}))
    return {key: value for key, value in leaves.items() if key.rpartition(".")[2] not in _CHANGES_NOTHING}


def _leaves(content: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(content, dict | list):
        yield key, content
        return
    parts = content.items() if isinstance(content, dict) else enumerate(content)
    for name, part in parts:
        yield from _leaves(part, f"{key}.{name}" if key else str(name))


def describe_contents(train: Examples, valid: Examples | None) -> dict[str, str]:
    """Give digests of the utterances, since the same folders may hold others by now."""
    sets = {"training set": train, "validation set": valid}
    noise = train.augmentation.bank if train.augmentation else None
    described = {
        name: [
            (u.utt_id, u.task, u.text, length) for u, length in zip(e.data.utterances, e.lengths, strict=True)
        ]
        for name, e in sets.items()
        if e is not None
    }
    if noise:
        described["noise recordings"] = noise.describe()
    return {name: _digest(content) for name, content in described.items()}


def _digest(content: object) -> str:
    return hashlib.blake2b(
        json.dumps(content, sort_keys=True, default=str).encode(), digest_size=8
    ).hexdigest()


def write_record(folder: Path, base: BaseModel, trained: Trained, state: State, settings: Training) -> None:
    """Leave `run.json` for the report."""
    record.RunRecord(
        name=trained.name,
        kind=trained.kind,
        tasks=list(trained.tasks),
        base_fingerprint=base.fingerprint,
        params_base=base.num_parameters,
        params_trainable=trained.num_parameters,
        params_per_task=trained.num_per_task,
        train_seconds=state.seconds,
        peak_mb=record.peak_memory_mb(),
        epochs=state.epoch,
        steps=state.step,
        seed=settings.seed,
        versions=record.collect_versions(),
        commit=record.find_commit(),
        command=record.command_line(),
        cpu_seconds=time.process_time(),
    ).write(folder / "run.json")
