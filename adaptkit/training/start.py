"""Two-stage training: one adapter for all speakers first, then every speaker's weights from there.

`train.shared` trains the first, whose only task is `per_task.SHARED`. The second names it in `train.start`
and copies it to its own folder (`RunFolder.start`), so that it no longer depends on the first.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from adaptkit import config
from adaptkit.adapters import api
from adaptkit.adapters.api import AdapterStack
from adaptkit.adapters.describe import describe_difference
from adaptkit.adapters.per_task import SHARED, shared_parameters, start_from, task_parameters, weights_of
from adaptkit.base.checkpoint import BaseModel
from adaptkit.data.dataset import BASE_TASK, Examples
from adaptkit.errors import CheckpointError, ConfigError, DataError, listed
from adaptkit.folders import RunFolder
from adaptkit.kaldi.columns import Names
from adaptkit.model import checkpoint
from adaptkit.model.checkpoint import AdapterFile
from adaptkit.tensors import hash_tensors, load_strictly
from adaptkit.training.distributed import is_first, of_first
from adaptkit.training.state import digest
from adaptkit.training_options import AdapterTraining

_LOG = logging.getLogger(__name__)
_MADE_BY = "'adaptkit train --shared' trains one for all speakers"
_OF_BANK = ("bank", "space_dim")  # options that may differ between the shared adapter and those of speakers


def pooled(examples: Examples) -> Examples:
    """Return the examples with all utterances in one task, SHARED."""
    utterances = replace(examples.data.utterances, tasks=Names.constant(SHARED, len(examples)))
    return replace(examples, data=replace(examples.data, utterances=utterances), task_ids={SHARED: BASE_TASK})


def refuse_ambiguous(examples: Examples) -> None:
    """Refuse several speakers of which one is named SHARED, as the adapter for all speakers is."""
    tasks = examples.data.tasks
    if SHARED in tasks and len(tasks) > 1:
        raise DataError(
            f"{examples.data.path}: has a speaker named '{SHARED}', as the adapter for all speakers is; "
            "rename the speaker in utt2spk, or in utt2task"
        )


def take_start(
    options: AdapterTraining, folder: Path, adapters: AdapterStack, base: BaseModel
) -> dict[str, str]:
    """Start adapters from `train.start`, copied to the run's folder; return its digest for the identity.

    A resumed run uses its copy if the original is gone. With `train.freeze_shared` the weights that tasks
    share are frozen.
    """
    if options.start is None:
        return {}
    copy, original = RunFolder(folder).start, find_file(options.start)
    is_resumed = of_first(RunFolder(folder).is_begun and copy.exists())
    path = copy if is_resumed and not original.exists() else original
    chosen = _choose(_read(path), adapters, base, path)
    stack = checkpoint.restore(chosen, base, path)
    if is_first() and not is_resumed:
        checkpoint.save(
            copy, stack, chosen.base_fingerprint, chosen.step, chosen.weights, unimproved=chosen.unimproved
        )
    _copy(stack, adapters, path)
    if options.freeze_shared:
        _freeze(adapters)
    if is_first():
        whose = "the shared adapter" if chosen.tasks == (SHARED,) else "the weights of the same speakers"
        _LOG.info("%s: starts from %s of %s", folder, whose, path)
    return {"start": digest([hash_tensors(chosen.weights), *map(config.dump, chosen.adapters)])}


def read_shared_start(path: Path, base: BaseModel) -> AdapterStack | None:
    """Return the adapter for all speakers that a run started from; None if it started from theirs."""
    file = checkpoint.load(path)
    return checkpoint.restore(file, base, path) if file.tasks == (SHARED,) else None


def start_from_shared(stack: AdapterStack, shared: AdapterStack) -> None:
    """Set the per-speaker weights of adapters to those of a shared adapter, and embeddings to zero.

    An embedding of zero gives g0, which is what the start has become in training.
    """
    for member, like in zip(stack, shared, strict=True):
        if member.space is None:
            start_from(member, None, weights_of(like, like.space, 0))
        else:
            nn.init.zeros_(member.space.codes.table)


def find_file(start: Path) -> Path:
    """Return the adapter file of an experiment's folder, or the file itself."""
    return RunFolder(start).adapter if start.is_dir() else start


def _read(path: Path) -> AdapterFile:
    if not path.exists():
        is_folder = path.name == RunFolder(path.parent).adapter.name and path.parent.is_dir()
        what = f"{path.parent} has no {path.name}" if is_folder else f"{path}: no such file or folder"
        raise CheckpointError(
            f"train.start: {what}; name a folder of trained adapters: {_MADE_BY}, and 'adaptkit submodels "
            "pack' packs Submodels into one"
        )
    return checkpoint.load(path)


def _choose(file: AdapterFile, adapters: AdapterStack, base: BaseModel, path: Path) -> AdapterFile:
    """Return the part of a file that adapters start from: their own tasks, or the one for all speakers.

    The latter may be the file's only task, whatever its name; it is called SHARED from here on.
    """
    if file.base_fingerprint != base.fingerprint:
        raise CheckpointError(
            f"train.start: {path} was trained on base model {file.base_fingerprint}, but {base.path} is "
            f"{base.fingerprint}; train a shared adapter on the latter, or set base.dir to the former"
        )
    if set(adapters.tasks) <= set(file.tasks) and file.adapters == adapters.configs:
        return _cut(file, base, adapters.tasks, adapters.tasks)
    only = SHARED if SHARED in file.tasks else file.tasks[0]
    if SHARED not in file.tasks and len(file.tasks) != 1:
        what = (
            f"adapters {describe_difference(file.adapters, adapters.configs)}"
            if set(adapters.tasks) <= set(file.tasks)
            else f"its speakers are {listed(file.tasks)}, but those of the training set are "
            f"{listed(adapters.tasks)}"
        )
        raise CheckpointError(
            f"train.start: {path}: {what}; start from adapters of the same speakers and options, or from a "
            f"shared adapter ({_MADE_BY})"
        )
    difference = describe_difference(file.adapters, adapters.configs, but_for=_OF_BANK)
    if difference:
        raise CheckpointError(
            f"train.start: {path}: adapters {difference}; set the same options (only "
            f"{listed(_OF_BANK)} may differ), or train the shared adapter again"
        )
    return _cut(file, base, (only,), (SHARED,))


def _cut(file: AdapterFile, base: BaseModel, tasks: Sequence[str], names: Sequence[str]) -> AdapterFile:
    """Cut some tasks out of a file, and name them."""
    one = api.build(file.adapters, base.sites, ("one",), seed=None)
    owned = {name for name, _ in task_parameters(one)}
    places = {task: row for row, task in enumerate(file.tasks)}
    rows, unimproved = [places[task] for task in tasks], set(file.unimproved)
    weights = {name: w[rows] if name in owned else w for name, w in file.weights.items()}
    kept = tuple(n for task, n in zip(tasks, names, strict=True) if task in unimproved)
    return replace(file, tasks=tuple(names), weights=weights, unimproved=kept)


def _copy(start: AdapterStack, adapters: AdapterStack, path: Path) -> None:
    """Copy the weights of the same tasks, or those of the shared adapter to every task."""
    if (start.tasks, start.configs) == (adapters.tasks, adapters.configs):
        load_strictly(adapters, start.state_dict(), path)
        return
    for member, like in zip(adapters, start, strict=True):
        start_from(member, member.space, weights_of(like, like.space, 0))
        known = dict(shared_parameters(like))
        with torch.no_grad():
            for name, parameter in shared_parameters(member):
                if not name.startswith("space."):  # G is new, and g0 is set already
                    parameter.copy_(known[name])


def _freeze(adapters: AdapterStack) -> None:
    """Freeze the shared weights; a hypernetwork must have learned to tell speakers apart first."""
    for index, member in enumerate(adapters):
        if member.space is not None and not member.space.basis.any():
            raise ConfigError(
                f"train.freeze_shared: adapters.{index} has 'bank: space', whose map from speaker embeddings "
                "to weights is still zero and would stay so; omit freeze_shared, or start from an experiment "
                "with that bank and the same speakers"
            )
    for _, parameter in shared_parameters(adapters):
        parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in adapters.parameters()):
        raise ConfigError(
            f"train.freeze_shared: leaves nothing to train, as speakers share all weights of {adapters.kind}"
        )
