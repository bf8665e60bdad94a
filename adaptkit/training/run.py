"""Train adapters: read their data, build them, run the loop, write the record."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from adaptkit import config, experiment, tokens
from adaptkit.adapters import api
from adaptkit.adapters.api import AdapterStack
from adaptkit.base import checkpoint as base_checkpoint
from adaptkit.base.checkpoint import BaseModel
from adaptkit.data.dataset import Examples, number_tasks, read_examples
from adaptkit.data.short import too_short
from adaptkit.errors import CheckpointError, ConfigError, DataError, listed, nearest, shell_word
from adaptkit.experiment import Experiment, Sets
from adaptkit.folders import RunFolder
from adaptkit.kaldi.columns import Table
from adaptkit.kaldi.overlap import warn_of_common, warn_of_tests
from adaptkit.model import checkpoint
from adaptkit.model.adapted import AdaptedModel
from adaptkit.records import Effort, RecordedModel, write_record
from adaptkit.training import trials
from adaptkit.training.augmentation import augmented, spec_of
from adaptkit.training.distributed import in_processes, is_first, of_first, writing_to
from adaptkit.training.folds import refuse_two_validations
from adaptkit.training.plan import Plan
from adaptkit.training.selection import summarise
from adaptkit.training.start import pooled, refuse_ambiguous, take_start
from adaptkit.training.state import State, describe_contents, identify, refuse_another
from adaptkit.training.validation import choose_metric

_LOG = logging.getLogger(__name__)
_MOST_SKIPPED = 0.05  # fraction of the utterances


def train_adapters(
    settings: Experiment,
    folder: Path,
    *,
    device: str,
    resume: bool = False,
    allow_pipes: bool = False,
) -> None:
    """Train the adapters of an experiment on its base model, which stays bit-identical."""
    if settings.data is None or not settings.adapters:
        raise ConfigError(
            f"experiment '{settings.name}': needs 'data' (train, valid) and 'adapters' to train"
        )
    with in_processes(device), writing_to(folder):
        refuse_another(folder, resume=resume)
        base = base_checkpoint.load(settings.base.dir, device, prompt=settings.base.prompt)
        refuse_two_validations(settings)
        train, valid = _read_sets_of_tasks(settings, base, allow_pipes)
        train = augmented(train, settings.augment, settings.train.seed)
        tasks = train.data.tasks
        adapters = api.build(settings.adapters, base.sites, tasks, settings.train.seed).to(device)
        train, valid = _numbered(train, valid, adapters)
        started_from = take_start(settings.train, folder, adapters, base)
        warn_of_coupled_rows(base, tasks)
        refusal = of_first(_refuse_enrolled(folder, tasks))

        def write(weights: Mapping[str, Tensor], state: State) -> None:
            experiment.save(settings, RunFolder(folder).config)
            kept = state.list_unimproved(tasks)
            place = RunFolder(folder).adapter
            checkpoint.save(place, adapters, base.fingerprint, state.step, weights, unimproved=kept)

        def finish(state: State) -> None:
            num_each = 0 if settings.train.shared else adapters.num_per_task  # what one more speaker adds
            counts = (adapters.num_parameters, num_each)
            kept = state.list_unimproved(tasks)
            is_validated = valid is not None or state.choices
            metric = choose_metric(settings.train.valid_metric, valid or train) if is_validated else ""
            made = RecordedModel(
                *(settings.name, adapters.kind, adapters.tasks, *counts, kept, metric),
                selection=summarise(state.choices),
            )
            experiment.save(settings, RunFolder(folder).config)  # more epochs may have improved nothing
            record_run(folder, made, base, effort=effort_of(state, settings.train.seed), device=device)

        identity = {
            **identify(settings, "data", "adapters", "augment", "train"),
            **describe_contents(train, valid),
            "base model": base.fingerprint,
            **(_describe_spec(train) if settings.augment == "own" else {}),
            **started_from,
        }
        trials.fit(
            AdaptedModel(base, adapters, spec_of(train)),
            Plan(*(train, valid, folder, settings.train, identity, write, finish), refuses_longer=refusal),
            resume=resume,
        )


def _refuse_enrolled(folder: Path, tasks: Sequence[str]) -> str:
    """Explain why a run cannot be trained for more epochs once speakers are enrolled in it; empty if it can.

    A run that has lost its state, so that training would begin anew, is a CheckpointError.
    """
    run = RunFolder(folder)
    present = checkpoint.load(run.adapter).tasks if run.adapter.exists() else ()
    enrolled = sorted(set(present) - set(tasks))
    if not enrolled:
        return ""
    command = f"adaptkit submodels export {shell_word(folder)} OUT --speaker NAME"
    what = f"{listed(enrolled)} are enrolled in {folder} and would be lost"
    remedy = f"train in another folder, and enroll them there again; '{command}' keeps their weights"
    if not run.state.exists():
        raise CheckpointError(f"{what}: the run has lost its state and would begin anew; {remedy}")
    return f"{what}; {remedy}"


def read_set(
    path: Path, base: BaseModel, *, allow_pipes: bool = False, keeps_tasks: bool = False
) -> Examples:
    """Read a data set without the utterances too short for their text; no task has adapters yet.

    With `keeps_tasks` a task that would be left without utterances is refused.
    """
    examples = read_examples(path, base, allow_pipes=allow_pipes)
    data = examples.data
    texts = Table(data.utterances.ids, data.utterances.texts)
    tokens.refuse_unknown(base.tokens, texts, str(path), str(base.path))
    reasons = too_short(examples)
    if not reasons:
        return examples
    first = listed([f"{utt_id} ({reason})" for utt_id, reason in reasons.items()], 5)
    message = f"{path}: {len(reasons)} of {len(examples)} utterances are too short for their text: {first}"
    kept = examples.without(reasons)
    lost = sorted(set(data.tasks) - set(kept.data.tasks))
    if lost and keeps_tasks:
        raise DataError(
            f"{message}; {listed(lost)} would have none left: correct their segments and texts, or leave "
            f"them out ('adaptkit data subset {shell_word(path)} OUT --spk-list FILE' with the others in "
            "FILE)"
        )
    if len(reasons) > _MOST_SKIPPED * len(examples):
        raise DataError(f"{message}; more than {_MOST_SKIPPED:.0%} is an error: check the segments and texts")
    _LOG.warning("%s; they are left out", message)
    return kept


def _numbered(
    train: Examples, valid: Examples | None, adapters: AdapterStack
) -> tuple[Examples, Examples | None]:
    """Assign task ids to both sets; if no task owns weights, the adapters fit every validation utterance."""
    known = number_tasks(train.data, adapters.tasks)
    train = replace(train, task_ids=known)
    if valid is None:
        return train, None
    if adapters.num_per_task:
        _refuse_untrained(train, valid)
    of_valid = {task: known.get(task, 0) for task in valid.data.tasks}
    return train, replace(valid, task_ids=of_valid)


def _refuse_untrained(train: Examples, valid: Examples) -> None:
    """Refuse validation utterances of tasks without training utterances; log tasks without validation."""
    known, names, path = dict.fromkeys(train.data.tasks), valid.data.tasks, valid.data.path
    strange = [task for task in names if task not in known]
    if strange:
        described = "; ".join(f"'{task}'{nearest(task, known)}" for task in strange[:10])
        both = [task for task in names if task in known]
        command = f"'adaptkit data subset {shell_word(path)} OUT --spk-list FILE'"
        remedy = f"or validate on the others: {command} with "
        raise DataError(
            f"{path}: has speakers without utterances in {train.data.path}: {described}; add some there, "
            + (f"{remedy}{listed(both)} in FILE" if both else "or name a validation set of its speakers")
        )
    warn_of_unvalidated(train, valid)


def warn_of_unvalidated(train: Examples, valid: Examples) -> None:
    """Warn of tasks without validation utterances."""
    validated = set(valid.data.tasks)
    unvalidated = [task for task in train.data.tasks if task not in validated]
    if unvalidated:
        what = (
            "their last weights are kept, at the learning rate that is best for all if there are several; or "
            "what is best for all, if all speakers' weights are selected together (train.select)"
        )
        _LOG.warning("%s: no utterance of %s: %s", valid.data.path, listed(unvalidated), what)


def effort_of(state: State, seed: int) -> Effort:
    """Return the training effort of a finished run, with its trials and the processes before a resume."""
    epochs, steps = state.epoch + state.trial_epochs, state.step + state.trial_steps
    return Effort(state.seconds, epochs, steps, seed, state.cpu_seconds, state.peak_mb)


def record_run(folder: Path, made: RecordedModel, base: BaseModel, *, effort: Effort, device: str) -> None:
    """Write `run.json` of a finished run."""
    write_record(
        folder,
        made,
        base_fingerprint=base.fingerprint,
        params_base=base.num_parameters,
        device=device,
        effort=effort,
    )


def warn_of_coupled_rows(base: BaseModel, tasks: Sequence[str]) -> None:
    """Warn if the base model's loss prevents tasks from being trained independently in one job."""
    is_coupled = base.config["model_conf"].get("length_normalized_loss") and base.model.ctc_weight < 1
    if is_coupled and len(tasks) > 1:
        what = "couples the utterances of a batch, so a speaker's result depends on the others in the job"
        _LOG.warning("%s: its length_normalized_loss %s", base.path, what)


def read_sets(
    sets: Sets, base: BaseModel, allow_pipes: bool, *, keeps_tasks: bool = False
) -> tuple[Examples, Examples | None]:
    """Read the sets to train and to validate on, as `read_set` does.

    Warns of utterances and sentences that validation and test sets share with the training set.
    """
    train = read_set(sets.train, base, allow_pipes=allow_pipes, keeps_tasks=keeps_tasks)
    valid = None if sets.valid is None else read_set(sets.valid, base, allow_pipes=allow_pipes)
    if is_first():
        if valid is not None:
            warn_of_common(train.data, valid.data)
        warn_of_tests(train.data, sets.test)
    return train, valid


def _read_sets_of_tasks(
    settings: Experiment, base: BaseModel, allow_pipes: bool
) -> tuple[Examples, Examples | None]:
    """Read the sets that adapters are trained on; with `train.shared`, as one task."""
    train, valid = read_sets(settings.data, base, allow_pipes, keeps_tasks=not settings.train.shared)
    if settings.train.shared:
        return pooled(train), valid and pooled(valid)
    refuse_ambiguous(train)
    return train, valid


def _describe_spec(train: Examples) -> dict[str, Any]:
    """Return the SpecAugment of the model's yaml, which an experiment does not hold itself."""
    spec = spec_of(train)
    options = {} if spec is None else config.dump(spec)
    return {f"SpecAugment of the model's yaml, {name}": value for name, value in options.items()}
