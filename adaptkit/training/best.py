"""Best weights by validation and early stopping: per task, or global if tasks share trained weights."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import astuple, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from adaptkit.adapters.per_task import shared_parameters, task_parameters
from adaptkit.errors import CheckpointError, ConfigError, listed
from adaptkit.folders import RunFolder
from adaptkit.tensors import average_tensors, read_tensors, write_tensors
from adaptkit.training.plan import Plan
from adaptkit.training.standing import WHOLE, Standing
from adaptkit.training.state import State
from adaptkit.training.validation import Validation


def selects_by_task(trained: nn.Module, select: Literal["auto", "speaker", "all"]) -> bool:
    """Return whether the weights of each task are selected by its own validation."""
    is_own = any(True for _ in task_parameters(trained))
    is_own = is_own and not any(parameter.requires_grad for _, parameter in shared_parameters(trained))
    if select == "speaker" and not is_own:
        raise ConfigError(
            "train.select: speaker: the speakers of these adapters share trained weights, so those of "
            "different steps cannot be combined; set it to all or auto"
        )
    return is_own and select != "all"


class BestWeights:
    """Selects the best weights of a run by validation and writes them to its adapter file or base model.

    If tasks share no trained weights, selection and early stopping are per task (unless `select` is all), and
    a task without validation utterances keeps its last weights. If they do, weights of different steps cannot
    be combined, and selection and early stopping are global.

    The weights of the start are the first to be ranked. Where no later validation is better, they are
    the result. The start is never averaged with others, which are averaged only if the best of them beats it.
    """

    def __init__(self, plan: Plan, trained: nn.Module, tasks: Sequence[str]):
        self.plan, self.trained = plan, trained
        self.ids = {task: index for index, task in enumerate(tasks)}  # empty: selection is global
        self.owned = [name for name, _ in task_parameters(trained)]
        self.best_by_task = self._copy() if tasks else {}

    def update(self, state: State, validation: Validation, *, writes: bool) -> State:
        """Rank a validation, and write the weights that improved."""
        options, entries, better = self.plan.options, self._entries(state, validation), []
        standings = dict(state.standings)
        for name, entry in entries.items():
            before = standings.get(name, Standing())
            figures = validation.figures.get(name)
            standings[name] = before.after(
                entry,
                average=options.average,
                patience=options.patience,
                min_gain=self.plan.min_gain,
                last=astuple(figures) if figures else (),
            )
            if standings[name].best[0] == entry:
                better.append(name)
        unvalidated = [task for task in self.ids if task not in validation.by_task]
        state = replace(state, standings=standings)
        state = replace(state, is_done=state.is_done or self.is_over(state))
        if not writes:
            return state
        if options.average > 1 and state.step in state.kept_steps:
            write_tensors(self._path(state.step), self.trained.state_dict(), {"step": state.step})
        self._take([*better, *unvalidated])
        if better or unvalidated:
            self.plan.write(self.best_by_task or self.trained.state_dict(), state)
        return state

    def is_over(self, state: State) -> bool:
        """Return whether early stopping has ended the training of all tasks."""
        if self.plan.valid is None or not all(s.is_stopped for s in state.standings.values()):
            return False
        return not set(self.ids) & set(self.plan.train.data.tasks) - set(self.plan.valid.data.tasks)

    def refuse_lost(self, state: State) -> None:
        """Refuse to continue a run without the checkpoints that it would average at its end."""
        steps = state.kept_steps if self.plan.options.average > 1 else ()
        lost = [str(self._path(step)) for step in sorted(steps) if not self._path(step).exists()]
        if lost:
            raise CheckpointError(
                f"{self.plan.folder}: cannot be trained for more epochs: the checkpoints to average at the "
                f"end (train.average) are gone: {listed(lost, 3)}; train in another folder"
            )

    def finish(self, state: State) -> None:
        """Write the final weights of a run: averages if asked for, the last ones without validation."""
        if self.plan.valid is None:
            self.plan.write(self.trained.state_dict(), state)
            return
        averaged = {name: s.averaged for name, s in state.standings.items() if len(s.averaged) > 1}
        if not averaged:
            return
        if WHOLE in averaged:
            steps = averaged[WHOLE]
            mean = average_tensors([self._read(step) for step in steps])
            self.plan.write(mean, replace(state, step=steps[0]))
            return
        kept = {step: self._read(step) for step in sorted(set().union(*averaged.values()))}
        for task, steps in averaged.items():
            own = [self._slices(kept[step], task) for step in steps]
            for name, mean in average_tensors(own).items():
                self.best_by_task[name][self.ids[task]] = mean
        self.plan.write(self.best_by_task, replace(state, step=max(kept)))

    def remove_unnamed(self, *states: State) -> None:
        """Remove the checkpoints that no given state names; all if early stopping ended the run.

        Those of a run that ended otherwise stay, as it may be resumed with more epochs.
        """
        folder = self._path(0).parent
        if self.plan.options.average == 1 or all(state.is_done and self.is_over(state) for state in states):
            shutil.rmtree(folder, ignore_errors=True)
        named = {self._path(step) for state in states for step in state.kept_steps}
        for path in folder.glob("step_*.safetensors"):
            if path not in named:
                path.unlink()

    def _entries(self, state: State, validation: Validation) -> dict[str, list[float]]:
        """Return [metric, loss, step] by task, for the tasks still in training, or for the whole run."""
        if not self.ids:
            return {WHOLE: [validation.value, validation.loss, state.step]}
        trained = set(self.plan.train.data.tasks) - state.stopped
        return {
            task: [value, validation.loss_by_task[task], state.step]
            for task, value in validation.by_task.items()
            if task in trained
        }

    def _take(self, tasks: Sequence[str]) -> None:
        """Copy the current weights of some tasks into their best weights."""
        if not tasks or not self.ids:
            return
        present, rows = self.trained.state_dict(), [self.ids[task] for task in tasks]
        for name in self.owned:
            best = self.best_by_task[name]
            ids = torch.tensor(rows, device=best.device)
            best.index_copy_(0, ids, present[name].index_select(0, ids))

    def _slices(self, weights: Mapping[str, Tensor], task: str) -> dict[str, Tensor]:
        return {name: weights[name][self.ids[task]] for name in self.owned}

    def _copy(self) -> dict[str, Tensor]:
        return {name: tensor.detach().clone() for name, tensor in self.trained.state_dict().items()}

    def _read(self, step: int) -> dict[str, Tensor]:
        """Read a checkpoint in the order of the module's own weights, which the files written of it keep."""
        tensors = read_tensors(self._path(step))[0]
        return {name: tensors[name] for name in self.trained.state_dict()}

    def _path(self, step: int) -> Path:
        return RunFolder(self.plan.folder).checkpoints / f"step_{step}.safetensors"
