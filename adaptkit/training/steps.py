"""The optimizer steps of a run, planned an epoch at a time, and their number."""

from collections.abc import Collection

from adaptkit.adapters.api import AdapterStack
from adaptkit.data.batches import shuffle_batches
from adaptkit.data.dataset import Examples
from adaptkit.data.packing import plan_steps
from adaptkit.data.sampler import (
    Batches,
    StepLimits,
    TrainingSet,
    count_batches,
    count_visits,
    own_batches,
)
from adaptkit.training.standing import WHOLE
from adaptkit.training_options import AdapterTraining, Training


class Steps:
    """The steps of training some adapters, or of a base model if `adapters` is None."""

    def __init__(self, train: Examples, options: Training | AdapterTraining, adapters: AdapterStack | None):
        self.options, self.tasks = options, () if adapters is None else adapters.tasks
        self.is_by_task = adapters is not None and adapters.num_per_task > 0 and not options.shared
        tasks: dict[str, list[int]] = {}
        for index, task in enumerate(train.data.utterances.tasks if self.is_by_task else ()):
            tasks.setdefault(task, []).append(index)
        self.data = TrainingSet(tasks, train.lengths, train.groups(adapters))
        self.visits: dict[str, int] = {}
        if self.is_by_task:
            limits = (options.batch_frames, options.accumulate, options.task_utterances, options.temperature)
            self.limits = StepLimits(*limits)
            self.visits = count_visits({task: len(own) for task, own in tasks.items()}, options.temperature)
        self._counts: dict[str, int] = {}
        self._first: list[Batches] | None = None  # those of epoch 0, until they are taken

    def of_epoch(self, epoch: int, stopped: Collection[str] = ()) -> list[Batches]:
        """Plan the steps of an epoch, without the tasks that have stopped."""
        first, self._first = self._first, None
        is_first = epoch == 0 and not stopped and first is not None
        return first if is_first else self._plan(epoch, stopped)

    def count(self, task: str = WHOLE) -> int:
        """Count the steps of a task over all epochs; for the whole run, or a shared adapter, estimate them.

        The estimate takes every epoch to have as many steps as the first. The learning rate of shared
        weights decays over it.
        """
        name = task if self.is_by_task else WHOLE
        if name not in self._counts:
            self._counts[name] = self._count_all() if name == WHOLE else self._count(task)
        return self._counts[name]

    def list_short(self, limit: int) -> dict[str, int]:
        """Return the tasks with at most `limit` steps; only tasks that may have so few are counted."""
        if not self.is_by_task:
            return dict.fromkeys(self.tasks, self.count()) if self.count() <= limit else {}
        most, epochs = self.limits.task_utterances, self.options.max_epochs
        few = [task for task, visits in self.visits.items() if epochs * -(-visits // most) <= limit]
        return {task: self.count(task) for task in few if self.count(task) <= limit}

    def _plan(self, epoch: int, stopped: Collection[str]) -> list[Batches]:
        seed = self.options.seed
        if self.is_by_task:
            own = {
                task: own_batches(task, num, self.data, self.limits, seed=seed, epoch=epoch)
                for task, num in self.visits.items()
                if task not in stopped
            }
            return plan_steps(own, self.data, self.limits)
        lengths, groups = self.data.lengths, self.data.groups
        plan = shuffle_batches(lengths, self.options.batch_frames, seed=seed, epoch=epoch, groups=groups)
        size = self.options.accumulate
        return [plan[start : start + size] for start in range(0, len(plan), size)]

    def _count(self, task: str) -> int:
        seed, epochs = self.options.seed, self.options.max_epochs
        return count_batches(task, self.visits[task], self.data, self.limits, seed=seed, num_epochs=epochs)

    def _count_all(self) -> int:
        if self._first is None:
            self._first = self._plan(0, ())
        return self.options.max_epochs * len(self._first)
