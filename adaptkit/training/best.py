"""The best weights of a run by validation: of each task, or of the run where tasks share weights."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn

from adaptkit.adapters.per_task import task_parameters
from adaptkit.folders import RunFolder
from adaptkit.tensors import average_tensors, read_tensors, write_tensors
from adaptkit.training.plan import Plan
from adaptkit.training.state import WHOLE, Standing, State
from adaptkit.training.validation import Validation


class BestWeights:
    """Judges a run by its validations and writes its best weights where decoding finds them.

    Tasks that share nothing that is trained are judged one by one: each keeps its own best weights and stops
    by itself. A task without utterances to validate on keeps its last ones. Where something is shared,
    weights of different steps do not go together, and the run is judged as a whole.
    """

    def __init__(self, plan: Plan, trained: nn.Module, tasks: Sequence[str]):
        self.plan, self.trained = plan, trained
        self.ids = {task: index for index, task in enumerate(tasks)}  # of those judged one by one
        self.owned = [name for name, _ in task_parameters(trained)]
        self.best_by_task = self._copy() if tasks else {}

    def judge(self, state: State, validation: Validation, *, writes: bool) -> State:
        """Rank a validation; write the weights of what did better than before."""
        options, entries, better = self.plan.options, self._entries(state, validation), []
        standings = dict(state.standings)
        for name, entry in entries.items():
            before = standings.get(name, Standing())
            standings[name] = before.after(entry, average=options.average, patience=options.patience)
            if standings[name].waited == 0:
                better.append(name)
        unjudged = [task for task in self.ids if task not in validation.by_task]
        trained = set(self.plan.train.data.tasks)
        is_over = all(s.is_stopped for s in standings.values()) and not (trained & {*unjudged})
        state = replace(state, standings=standings, is_done=state.is_done or is_over)
        if not writes:
            return state
        if options.average > 1 and state.step in state.kept_steps:
            write_tensors(self._path(state.step), self.trained.state_dict(), {"step": state.step})
        self._take([*better, *unjudged])
        if better or unjudged:
            self.plan.write(self.best_by_task or self.trained.state_dict(), state.step)
        return state

    def finish(self, state: State) -> None:
        """Write what a finished run leaves: averages where asked for, and the last weights unvalidated."""
        if self.plan.valid is None:
            self.plan.write(self.trained.state_dict(), state.step)
            return
        averaged = {name: s for name, s in state.standings.items() if len(s.best) > 1}
        if not averaged:
            return
        if WHOLE in averaged:
            steps = [int(step) for _, _, step in averaged[WHOLE].best]
            self.plan.write(average_tensors([self._read(step) for step in steps]), steps[0])
            return
        kept = {step: self._read(step) for step in sorted(state.kept_steps)}
        for task, standing in averaged.items():
            own = [self._slices(kept[int(step)], task) for _, _, step in standing.best]
            for name, mean in average_tensors(own).items():
                self.best_by_task[name][self.ids[task]] = mean
        self.plan.write(self.best_by_task, max(kept))

    def remove_unnamed(self, state: State) -> None:
        """Remove checkpoints that a saved state does not name, and all of a run that is over."""
        folder = self._path(0).parent
        if state.is_done:
            shutil.rmtree(folder, ignore_errors=True)
        named = {self._path(step) for step in state.kept_steps}
        for path in folder.glob("step_*.safetensors"):
            if path not in named:
                path.unlink()

    def _entries(self, state: State, validation: Validation) -> dict[str, list[float]]:
        """Give WER, loss and step of what is judged: all tasks that still train, or the whole."""
        if not self.ids:
            return {WHOLE: [validation.wer, validation.loss, state.step]}
        trained = set(self.plan.train.data.tasks) - state.stopped
        return {
            task: [wer, validation.loss_by_task[task], state.step]
            for task, wer in validation.by_task.items()
            if task in trained
        }

    def _take(self, tasks: Sequence[str]) -> None:
        """Take the present weights of some tasks for their best."""
        present = self.trained.state_dict()
        for task in tasks if self.ids else ():
            for name, own in self._slices(present, task).items():
                self.best_by_task[name][self.ids[task]] = own

    def _slices(self, weights: Mapping[str, Tensor], task: str) -> dict[str, Tensor]:
        return {name: weights[name][self.ids[task]] for name in self.owned}

    def _copy(self) -> dict[str, Tensor]:
        return {name: tensor.detach().clone() for name, tensor in self.trained.state_dict().items()}

    def _read(self, step: int) -> dict[str, Tensor]:
        return read_tensors(self._path(step))[0]

    def _path(self, step: int) -> Path:
        return RunFolder(self.plan.folder).checkpoints / f"step_{step}.safetensors"
