"""The plan of a training run: its data, its steps and its output."""

import logging
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from adaptkit.adapters.api import AdapterStack
from adaptkit.data.batches import shuffle_batches
from adaptkit.data.dataset import Examples, Group
from adaptkit.data.sampler import Batches, StepLimits, TrainingSet, count_visits, own_batches, plan_steps
from adaptkit.errors import listed
from adaptkit.model import encoder_cache
from adaptkit.training.standing import WHOLE
from adaptkit.training.state import State
from adaptkit.training.validation import Metric, choose_metric
from adaptkit.training_options import AdapterTraining, Training

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """The data sets, settings and output of a training run."""

    train: Examples
    valid: Examples | None  # None: the last weights are kept instead of the best
    folder: Path
    options: Training | AdapterTraining  # of a base model, or of adapters
    identity: Mapping[str, Any]  # what a resumed run must share with the interrupted one
    write: Callable[
        [Mapping[str, Tensor], State], None
    ]  # saves weights for decoding; the state's step made them
    finish: Callable[[State], None]  # writes the record of a finished run
    ranks_start: bool = True  # whether the start is an alternative to what training makes of it
    refuses_longer: str = ""  # why the run cannot be resumed with more epochs, and the remedy
    first: State = State()  # of a new run; with what trials chose, if there were any
    is_trial: bool = False  # whether it is run to be compared with others

    @property
    def metric(self) -> Metric:
        """What the best weights are chosen by."""
        held_out = self.train if self.has_folds else None
        return choose_metric(self.options.valid_metric, self.valid or held_out)

    @property
    def min_gain(self) -> float:
        """The gain over the start that is asked for; of a base model, none."""
        return self.options.min_gain if isinstance(self.options, AdapterTraining) else 0.0

    @property
    def has_folds(self) -> bool:
        """Whether parts of the training set are held out in turn."""
        return isinstance(self.options, AdapterTraining) and self.options.folds is not None

    def steps(
        self, epoch: int, adapters: AdapterStack | None = None, stopped: Collection[str] = ()
    ) -> list[Batches]:
        """Plan the steps of an epoch of training `adapters`, without the tasks that have stopped."""
        options, groups = self.options, self.train.groups(adapters)
        if self._is_by_task(adapters):
            own = {task: batches for task, batches in self._own(epoch, groups).items() if task not in stopped}
            return plan_steps(own, self._set(groups), self._limits)
        seed = options.seed
        plan = shuffle_batches(
            self.train.lengths, options.batch_frames, seed=seed, epoch=epoch, groups=groups
        )
        return [plan[start : start + options.accumulate] for start in range(0, len(plan), options.accumulate)]

    def count_steps(self, adapters: AdapterStack | None) -> Counter[str]:
        """Count the steps of the whole run, and those of each task."""
        counts: Counter[str] = Counter()
        for epoch in range(self.options.max_epochs):
            num_steps = len(self.steps(epoch, adapters))
            counts[WHOLE] += num_steps
            if self._is_by_task(adapters):
                counts.update({t: len(b) for t, b in self._own(epoch, self.train.groups(adapters)).items()})
            elif adapters is not None:
                counts.update(dict.fromkeys(adapters.tasks, num_steps))
        return counts

    def _is_by_task(self, adapters: AdapterStack | None) -> bool:
        """Return whether each task has batches of its own, rather than all utterances as of one task."""
        return adapters is not None and adapters.num_per_task > 0 and not self.options.shared

    def warn_of_warm_up(self, adapters: AdapterStack) -> None:
        """Warn if warm-up is not over when training is, as with few utterances and a step per epoch."""
        counts, limit = self.count_steps(adapters), self.options.warmup_steps
        short = [task for task, count in counts.items() if task != WHOLE and count <= limit]
        if short:
            most = max(counts[task] for task in short)
            how = f"take {most} steps or fewer, all of them in the warm-up of train.warmup_steps={limit}"
            remedy = f"so their learning rate stays below train.lr; lower it, for example to {most // 10}"
            _LOG.warning("%s: %s: %s, %s", self.folder, listed(short, 5), how, remedy)

    def _own(self, epoch: int, groups: Sequence[Group]) -> dict[str, Batches]:
        """Plan each task's own batches of an epoch."""
        data, limits, seed = self._set(groups), self._limits, self.options.seed
        visits = count_visits({task: len(own) for task, own in data.tasks.items()}, limits.temperature)
        return {t: own_batches(t, n, data, limits, seed=seed, epoch=epoch) for t, n in visits.items()}

    def _set(self, groups: Sequence[Group]) -> TrainingSet:
        tasks: dict[str, list[int]] = {}
        for index, utterance in enumerate(self.train.data.utterances):
            tasks.setdefault(utterance.task, []).append(index)
        return TrainingSet(tasks, self.train.lengths, groups)

    @property
    def _limits(self) -> StepLimits:
        options = self.options
        return StepLimits(
            options.batch_frames, options.accumulate, options.task_utterances, options.temperature
        )

    def cached(self, adapters: AdapterStack) -> "Plan":
        """Return a plan that reads encoder outputs from EXP/taps, which is written if missing."""
        folder, frames = self.folder / "taps", self.options.batch_frames
        train = encoder_cache.cached(self.train, adapters, folder / "train", batch_frames=frames)
        valid = self.valid and encoder_cache.cached(
            self.valid, adapters, folder / "valid", batch_frames=frames
        )
        return replace(self, train=train, valid=valid)
