"""The plan of a training run: its data, its steps and its output."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from adaptkit.adapters.api import AdapterStack
from adaptkit.data.dataset import Examples
from adaptkit.errors import counted, listed
from adaptkit.model import encoder_cache
from adaptkit.training.state import State
from adaptkit.training.steps import Steps
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
        """The required gain over the start; none for a base model."""
        return self.options.min_gain if isinstance(self.options, AdapterTraining) else 0.0

    @property
    def has_folds(self) -> bool:
        """Whether parts of the training set are held out in turn."""
        return isinstance(self.options, AdapterTraining) and self.options.folds is not None

    def steps(self, adapters: AdapterStack | None) -> Steps:
        """Return the steps of training `adapters`, or a base model."""
        return Steps(self.train, self.options, adapters)

    def warn_of_warm_up(self, adapters: AdapterStack) -> None:
        """Warn if training ends before warm-up does, as with few utterances and one step per epoch."""
        limit = self.options.warmup_steps
        if limit is not None and (short := self.steps(adapters).list_short(limit)):
            most = max(short.values())
            how = f"take at most {counted(most, 'step')}, all in the warm-up of train.warmup_steps={limit}"
            remedy = "so the learning rate never reaches train.lr; leave the warm-up out, or lower it"
            _LOG.warning("%s: %s: %s, %s", self.folder, listed(list(short), 5), how, remedy)

    def cached(self, adapters: AdapterStack) -> "Plan":
        """Return a plan that reads encoder outputs from EXP/taps, which is written if missing."""
        folder, frames = self.folder / "taps", self.options.batch_frames
        train = encoder_cache.cached(self.train, adapters, folder / "train", batch_frames=frames)
        valid = self.valid and encoder_cache.cached(
            self.valid, adapters, folder / "valid", batch_frames=frames
        )
        return replace(self, train=train, valid=valid)
