"""Enrolment: train the per-speaker weights of new speakers, all else frozen (`adaptkit submodels enroll`).

These are a slice of each per-speaker parameter, or a speaker embedding (see `adapters.per_task`). One job
enrolls several speakers, and none affects the result of another.

Training runs in `added/` of the folder whose adapter file the speakers are appended to. Running a finished
enrolment again only appends speakers that the file lacks.
"""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import torch
from torch import Tensor

from adaptkit import experiment
from adaptkit.adapters import api
from adaptkit.adapters.api import AdapterStack
from adaptkit.adapters.per_task import SHARED, shared_parameters, task_parameters
from adaptkit.base.checkpoint import BaseModel
from adaptkit.data.batches import load_batches, plan_batches
from adaptkit.data.dataset import Examples, number_tasks
from adaptkit.errors import ConfigError, DataError, counted, listed, nearest
from adaptkit.folders import RunFolder
from adaptkit.kaldi.overlap import warn_of_common
from adaptkit.model import checkpoint
from adaptkit.model.adapted import AdaptedModel
from adaptkit.model.load import load_experiment
from adaptkit.training import trials
from adaptkit.training.append import append, find_target, refuse_known
from adaptkit.training.augmentation import augmented, spec_of
from adaptkit.training.distributed import in_processes, is_first, of_first
from adaptkit.training.enroll_options import EnrollOptions, refuse_idle, refuse_misuse, settings_of
from adaptkit.training.plan import Plan
from adaptkit.training.run import read_set, warn_of_coupled_rows, warn_of_unvalidated
from adaptkit.training.start import read_shared_start, start_from_shared
from adaptkit.training.state import State, describe_contents, identify
from adaptkit.training.validation import Metric, describe_value

_LOG = logging.getLogger(__name__)
_NUM_COMPARED = 4  # utterances of a new speaker that select the nearest known speaker
_MOST_LOGGED = 10  # speakers whose results are logged


def enroll(options: EnrollOptions, *, device: str, base: BaseModel | None = None) -> Path:
    """Train new speakers of an experiment and append them to its adapter file; return the file's folder.

    An interrupted run resumes; the adapter file is written once all speakers are trained. `base` is the base
    model, if it has been loaded already.
    """
    refuse_misuse(options)
    target = options.target
    with in_processes(device):
        loaded = load_experiment(
            options.exp, base=base or options.base, device=device, overrides=options.words
        )
        refuse_idle(options, loaded.settings.train)
        settings, base, known = settings_of(options, loaded.settings), loaded.base, loaded.adapters
        owned = {name for name, _ in task_parameters(known)}
        if not owned:
            raise ConfigError(
                f"{loaded.folder.adapter}: {known.kind} has no per-speaker weights; train it with "
                "'per_task: true'"
            )
        train, valid = _read(options, base)
        warn_of_coupled_rows(base, train.data.tasks)
        folder = RunFolder(target.enrolled / _name(train.data.tasks))
        present = find_target(options, owned)
        if not folder.state.exists():
            refuse_known(train.data.tasks, present.tasks, target.path)
        where, shared = _choose_start(options, known, base)
        stack = start(known, train, where, seed=settings.train.seed, shared=shared)
        is_begun = of_first(folder.is_begun)
        _keep_start(folder, stack, base, is_begun=is_begun)

        def write(weights: Mapping[str, Tensor], state: State) -> None:
            experiment.save(settings, folder.config)
            kept = state.list_unimproved(stack.tasks)
            checkpoint.save(folder.adapter, stack, base.fingerprint, state.step, weights, unimproved=kept)

        train = augmented(train, settings.augment, settings.train.seed)
        identity = {
            **identify(settings, "adapters", "augment", "train"),
            **describe_contents(train, valid),
            "base model": base.fingerprint,
            "start": where,
        }
        refusal = _refuse_longer(train.data.tasks, present.tasks)
        plan = Plan(
            *(train, valid, folder.path, settings.train, identity, write),
            finish=lambda state: None,
            refuses_longer=refusal,
        )
        state = trials.fit(AdaptedModel(base, stack, spec_of(train)), plan, resume=is_begun)
        if is_first():
            _log_result(folder.path, train.data.tasks, state, plan.metric)
            metric = "" if valid is None and not state.choices else plan.metric
            append(options, settings, base=base, folder=folder, state=state, device=device, metric=metric)
    return target.path


def _keep_start(folder: RunFolder, stack: AdapterStack, base: BaseModel, *, is_begun: bool) -> None:
    """Save the start of an enrolment, or take that of a begun one: others may have been enrolled since."""
    if is_begun and of_first(folder.start.exists()):
        stack.load_state_dict(checkpoint.load(folder.start).weights)
    elif is_first():
        checkpoint.save(folder.start, stack, base.fingerprint, 0, stack.state_dict())


def _refuse_longer(tasks: Sequence[str], present: Sequence[str]) -> str:
    """Explain why speakers that are in the adapter file already cannot be trained further; empty if not."""
    if not set(tasks) & set(present):
        return ""
    return (
        f"{listed(tasks)} are enrolled already and cannot be trained for more epochs; make an experiment "
        "without them ('adaptkit submodels export --speaker' of the others, then 'adaptkit submodels pack') "
        "and enroll them there"
    )


def start(
    known: AdapterStack, train: Examples, where: str, *, seed: int, shared: AdapterStack | None = None
) -> AdapterStack:
    """Build adapters for the new speakers only, with the frozen shared weights of the known ones.

    Per-speaker weights start from `where`: `mean` (of the known speakers), `nearest` (the known speaker whose
    weights give the new speaker's first utterances the lowest loss), `shared` (the adapter for all speakers:
    the only task of `shared` if given, else the one among the known tasks) or `new` (the adapter's
    initialisation).
    """
    tasks = train.data.tasks
    stack = api.build(known.configs, train.base.sites, tasks, seed).to(next(known.parameters()).device)
    ours, owned = dict(shared_parameters(known)), dict(task_parameters(known))
    speakers = [index for index, task in enumerate(known.tasks) if task != SHARED]
    with torch.no_grad():
        for name, parameter in shared_parameters(stack):
            parameter.copy_(ours[name])
            parameter.requires_grad_(False)
        if where == "shared" and shared is not None:
            start_from_shared(stack, shared)
            return stack
        if where in ("mean", "shared"):
            chosen = [known.tasks.index(SHARED)] if where == "shared" else speakers or [0]
            for name, parameter in task_parameters(stack):
                parameter.copy_(owned[name][chosen].mean(dim=0).expand_as(parameter))
        for index, task in enumerate(tasks if where == "nearest" else ()):
            nearest_known = find_nearest(known, train, task)
            if index < _MOST_LOGGED:
                what = "%s starts from '%s', whose weights give the lowest loss"
                _LOG.info(what, task, known.tasks[nearest_known])
            elif index == len(tasks) - 1:
                _LOG.info("and so do %d more, each from its own", len(tasks) - _MOST_LOGGED)
            for name, parameter in task_parameters(stack):
                parameter[index] = owned[name][nearest_known]
    return stack


def _choose_start(
    options: EnrollOptions, known: AdapterStack, base: BaseModel
) -> tuple[str, AdapterStack | None]:
    """Return where new speakers start, and the shared adapter that the experiment itself started from."""
    path = RunFolder(options.exp).start
    is_wanted = options.start in (None, "shared")
    shared = read_shared_start(path, base) if is_wanted and path.exists() else None
    has_shared = shared is not None or SHARED in known.tasks
    if options.start == "shared" and not has_shared:
        raise ConfigError(
            f"--start shared: {options.exp} has no shared adapter: it has no speaker '{SHARED}', and its "
            "training did not start from one (train.start); use --start mean"
        )
    return options.start or ("shared" if has_shared else "mean"), shared


def find_nearest(known: AdapterStack, train: Examples, task: str) -> int:
    """Return the id of the known task whose weights give a new task's first utterances the lowest loss."""
    own = [u.utt_id for u in train.data.utterances if u.task == task][:_NUM_COMPARED]
    first = train.without({u.utt_id for u in train.data.utterances} - {*own})
    adapted = AdaptedModel(train.base, known).eval()
    first = replace(first, task_ids={task: 0}, augmentation=None)
    plan = plan_batches(first.lengths, sum(first.lengths) * len(first), groups=first.groups(known))
    device = next(train.base.model.parameters()).device
    losses = torch.zeros(len(known.tasks))
    with torch.inference_mode(), adapted.hooked():
        for batch in load_batches(first, plan):
            rows = adapted.read_taps(batch.to(device))
            for index in range(len(known.tasks)):
                losses[index] += float(adapted.loss(rows.of_task(index))) * len(rows.utt_ids)
    if not losses.isfinite().any():
        raise DataError(
            f"{train.data.path}: the loss of {listed(own)} is not finite with any known speaker's weights; "
            "check their audio and features, or use --start mean"
        )
    return int(losses.where(losses.isfinite(), torch.inf).argmin())


def _log_result(folder: Path, tasks: Sequence[str], state: State, metric: Metric) -> None:
    """Log how many steps a training took and, for each speaker, its best validation."""
    _LOG.info("%s: %s, %.0f s", listed(tasks, 5), counted(state.step, "step"), state.seconds)
    found = sorted((task, standing.best[0]) for task, standing in state.standings.items() if standing.best)
    for task, (value, loss, step) in found[:_MOST_LOGGED]:
        place = f"step {step:.0f}" if step else "the start, which no step improved on"
        shown = "" if metric == "loss" else f", {describe_value(metric, value)}"
        _LOG.info("%s: valid loss %.3f%s at %s", task or "all", loss, shown, place)
    if len(found) > _MOST_LOGGED:
        _LOG.info("and %d more, in %s", len(found) - _MOST_LOGGED, RunFolder(folder).validation)


def _read(options: EnrollOptions, base: BaseModel) -> tuple[Examples, Examples | None]:
    """Read the new speakers' training and validation utterances, with matching task ids."""
    train = read_set(options.data, base, allow_pipes=options.allow_pipes, keeps_tasks=True)
    known = train.data.tasks
    unknown = sorted(set(options.speakers) - set(known))
    if unknown:
        described = "; ".join(f"'{name}'{nearest(name, known)}" for name in unknown)
        raise DataError(f"{options.data}: has no speaker {described}")
    chosen = options.speakers or known
    if SHARED in chosen:
        raise DataError(
            f"{options.data}: has a speaker named '{SHARED}', as the adapter for all speakers is; rename the "
            "speaker in utt2spk, or select the others with --speaker"
        )
    train = _only(train, chosen)
    if options.valid is None:
        return train, None
    valid = _only(read_set(options.valid, base, allow_pipes=options.allow_pipes), chosen)
    if not len(valid):
        raise DataError(
            f"{options.valid}: has no utterance of {listed(chosen)}; omit --valid or name a set that has them"
        )
    if is_first():
        warn_of_common(train.data, valid.data)
    warn_of_unvalidated(train, valid)
    return train, replace(valid, task_ids=number_tasks(valid.data, train.data.tasks))


def _only(examples: Examples, tasks: Sequence[str]) -> Examples:
    chosen = set(tasks)
    others = {u.utt_id for u in examples.data.utterances if u.task not in chosen}
    kept = examples.without(others)
    return replace(kept, task_ids={task: index for index, task in enumerate(kept.data.tasks)})


def _name(tasks: Sequence[str]) -> str:
    """Return the name of the folder in which some tasks are trained."""
    quoted = quote(tasks[0], safe="").replace(".", "%2E")
    if len(tasks) == 1 and len(quoted) <= 100:
        return quoted
    digest = hashlib.blake2b("\n".join(tasks).encode(), digest_size=6).hexdigest()
    return f"{len(tasks)}_speakers_{digest}"
