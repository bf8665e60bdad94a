"""Trials: runs whose validations choose learning rates and numbers of epochs, before the run itself.

A trial is a run with one learning rate, in a subfolder of the actual run; it resumes like any run.
With folds each trial holds out a part of every speaker's utterances; all utterances are then trained on, each
speaker for the number of epochs and at the rate that were best for it on the held-out ones. Without folds the
trials have the run's own validation set, and each speaker's weights are those of its best trial.
"""

import gc
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from adaptkit.adapters.per_task import task_parameters
from adaptkit.errors import ConfigError
from adaptkit.files import remove
from adaptkit.folders import RunFolder
from adaptkit.model import checkpoint
from adaptkit.model.adapted import AdaptedModel
from adaptkit.training import loop, selection
from adaptkit.training.best import selects_by_task
from adaptkit.training.distributed import is_first, of_first, writing_to
from adaptkit.training.folds import Fold, deal
from adaptkit.training.plan import Plan
from adaptkit.training.standing import Choice
from adaptkit.training.state import State, refuse_another

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trial:
    """A learning rate, and the fold to hold out, if any."""

    lr: float
    number: int = 0  # of the fold, from 1
    fold: Fold | None = None

    @property
    def name(self) -> str:
        """The name of the trial's folder."""
        return f"lr_{self.lr}" + (f"_fold_{self.number}" if self.fold else "")


def fit(adapted: AdaptedModel, plan: Plan, *, resume: bool) -> State:
    """Train as `loop.fit` does, after trials if the settings ask for any."""
    if is_first() and not RunFolder(plan.folder).is_begun:
        plan.warn_of_warm_up(adapted.adapters)
    trials = _list_trials(plan)
    if not trials:
        return loop.fit(adapted, plan, resume=resume)
    with writing_to(plan.folder):
        refuse_another(plan.folder, resume=resume)
        final = _plan_final(plan, trials)
        is_begun = of_first(RunFolder(plan.folder).state.exists())
        if not is_begun:
            final = replace(final, first=_try_all(adapted, plan, trials))
        state = loop.fit(adapted, final, resume=is_begun)
        if is_first():
            _remove_weights(plan.folder)
    return state


def _list_trials(plan: Plan) -> list[Trial]:
    """List the trials that the settings ask for; none where no utterance can be held out."""
    options = plan.options
    if options.folds is None:
        return [Trial(lr) for lr in options.rates] if len(options.rates) > 1 else []
    folds = deal(plan.train, options.folds, seed=options.seed)
    if folds:
        numbered = list(enumerate(folds, start=1))
        return [Trial(lr, number, fold) for lr in options.rates for number, fold in numbered]
    if len(options.rates) > 1:
        raise ConfigError(
            f"{plan.train.data.path}: no speaker has a second utterance to hold out, so none of the learning "
            "rates can be chosen; set train.lr to one of them"
        )
    what = "the last weights are kept, after train.max_epochs at train.lr"
    _LOG.warning("%s: no utterance can be held out; %s", plan.folder, what)
    return []


def _try_all(adapted: AdaptedModel, plan: Plan, trials: Sequence[Trial]) -> State:
    """Run the trials; return the state that the run itself begins with, whose weights `adapted` then has."""
    if adapted.adapters.is_cached:
        plan = plan.cached(adapted.adapters)
    options = plan.options
    start = {name: tensor.clone() for name, tensor in adapted.trained.state_dict().items()}
    states: dict[float, list[State]] = {}
    for trial in trials:
        adapted.trained.load_state_dict(start)
        states.setdefault(trial.lr, []).append(_try(adapted, plan, trial))
    adapted.trained.load_state_dict(start)
    by_task = selects_by_task(adapted.trained, options.select)
    choices = _choose(plan, states, by_task=by_task)
    ended = [state for own in states.values() for state in own]
    step = epoch = 0
    if options.folds is None:
        _assemble(adapted, plan.folder, choices, by_task=by_task)
        step, epoch = max(state.step for state in ended), max(state.epoch for state in ended)
    return State(
        step=step,
        epoch=epoch,
        seconds=sum(state.seconds for state in ended),
        cpu_seconds=sum(state.cpu_seconds for state in ended),
        peak_mb=max(state.peak_mb for state in ended),
        choices=choices,
        trial_epochs=sum(state.epoch for state in ended) - epoch,
        trial_steps=sum(state.step for state in ended) - step,
    )


def _choose(plan: Plan, states: Mapping[float, Sequence[State]], *, by_task: bool) -> dict[str, Choice]:
    """Choose for every task and for all by the validations of the trials, and write what was chosen."""
    curves = {lr: selection.join(state.validations for state in own) for lr, own in states.items()}
    tasks, options = plan.train.data.tasks, plan.options
    choices = selection.choose(curves, tasks, metric=plan.metric, by_task=by_task, min_gain=options.min_gain)
    if by_task and options.folds is None:  # a trial keeps the last weights of tasks without validation
        for task in (task for task in tasks if choices[task].epochs and not choices[task].best):
            lr = choices[task].lr
            choices[task] = replace(choices[task], epochs=states[lr][0].epoch)
    if is_first():
        selection.write_table(RunFolder(plan.folder).selection, choices, plan.metric)
    scope = "per speaker" if by_task else "for all speakers together"
    name = "loss" if plan.metric == "loss" else plan.metric.upper()
    _LOG.info("%s: chosen %s by %s: %s", plan.folder, scope, name, selection.describe(choices))
    return choices


def _try(adapted: AdaptedModel, plan: Plan, trial: Trial) -> State:
    """Run a trial to its end, or return the state of one that has ended."""
    folder = RunFolder(plan.folder).trials / trial.name
    options = plan.options.model_copy(
        update={"lr": trial.lr, "folds": None, "valid_metric": plan.metric}  # the same for each fold
    )
    of_all = {key: value for key, value in plan.identity.items() if not _names_rates(key)}
    own = replace(
        plan,
        folder=folder,
        options=options,
        identity={**of_all, "train.lr": trial.lr, "fold": trial.number},
        write=_discard if trial.fold else _writer(adapted, plan, folder),
        finish=lambda state: None,
        refuses_longer=_refuse_longer(plan.folder),
        is_trial=True,
    )
    if trial.fold:
        train, valid = trial.fold.split(plan.train)
        own = replace(own, train=train, valid=valid)
    state = loop.fit(adapted, own, resume=of_first(RunFolder(folder).state.exists()))
    gc.collect()  # of torch's DistributedDataParallel, whose hooks would act in the next trial
    return state


def _plan_final(plan: Plan, trials: Sequence[Trial]) -> Plan:
    """Plan the run itself, which needs no validation any more.

    With K folds a step takes up to K / (K - 1) times as many utterances of a speaker, so that an epoch has
    about as many steps as in the trials, with their learning rates.
    """
    num_folds = max(trial.number for trial in trials)
    changes = {"valid_metric": plan.metric}
    if num_folds:
        changes["task_utterances"] = round(plan.options.task_utterances * num_folds / (num_folds - 1))
    refusal = plan.refuses_longer or _refuse_longer(plan.folder)
    return replace(plan, valid=None, options=plan.options.model_copy(update=changes), refuses_longer=refusal)


def _assemble(adapted: AdaptedModel, folder: Path, choices: Mapping[str, Choice], *, by_task: bool) -> None:
    """Load the weights of the best trial into the adapters, for each task or for all together."""
    if not is_first():
        return  # torch copies the weights of the first process to the others
    present, owned = adapted.trained.state_dict(), [name for name, _ in task_parameters(adapted.trained)]
    for lr in sorted({choice.lr for choice in choices.values() if choice.epochs}):
        file = checkpoint.load(RunFolder(RunFolder(folder).trials / Trial(lr).name).adapter)
        rows = [row for row, task in enumerate(file.tasks) if choices[task].lr == lr]
        for name, weight in file.weights.items() if rows else ():
            place = (rows,) if by_task and name in owned else ...
            present[name][place] = weight[place].to(present[name])


def _remove_weights(folder: Path) -> None:
    """Remove the weights and states of trials, which are no longer needed; their logs stay."""
    for trial in map(RunFolder, sorted(RunFolder(folder).trials.glob("lr_*"))):
        remove(trial.state)
        remove(trial.adapter)
        shutil.rmtree(trial.checkpoints, ignore_errors=True)


def _names_rates(key: str) -> bool:
    return key == "train.lr" or key.startswith("train.lr.")


def _refuse_longer(folder: Path) -> str:
    return (
        f"trials over train.max_epochs chose the settings of {folder}, so it cannot be trained for more "
        "epochs; train in another folder, or remove this one to start over"
    )


def _writer(adapted: AdaptedModel, plan: Plan, folder: Path) -> Callable[[Mapping[str, Tensor], State], None]:
    stack, fingerprint = adapted.adapters, plan.train.base.fingerprint

    def write(weights: Mapping[str, Tensor], state: State) -> None:
        checkpoint.save(RunFolder(folder).adapter, stack, fingerprint, state.step, weights)

    return write


def _discard(weights: Mapping[str, Tensor], state: State) -> None:
    """Write nothing: only the validations of the run matter."""
