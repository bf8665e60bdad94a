"""The options of an enrolment, and its settings, which are those of the experiment with a few changes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from adaptkit import experiment
from adaptkit.errors import ConfigError, listed
from adaptkit.experiment import Experiment
from adaptkit.folders import RunFolder
from adaptkit.training_options import AdapterTraining

FOLDS = 5  # of the new speakers' utterances, where nothing else is asked for
_FOLDS = "train.folds"
_OF_TRAINING = {"train.shared", "train.start", "train.freeze_shared"}
_OF_VALIDATION = {"train.valid_every", "train.valid_metric", "train.select", "train.min_gain"}
_OF_VALID = {"train.patience", "train.average"}  # which folds do without


@dataclass(frozen=True)
class EnrollOptions:
    """Which speakers to enroll in which experiment, and where the result goes."""

    exp: Path  # folder of the trained experiment
    data: Path  # data directory of the new speakers
    valid: Path | None = None  # validation set that selects the best weights; None cross-validates on `data`
    speakers: tuple[str, ...] = ()  # of the data directory; empty for all
    # initial weights, see `enroll.start`; None: shared if there is a shared adapter, else mean
    start: Literal["mean", "nearest", "new", "shared"] | None = None
    out: Path | None = None  # None adds the speakers to the adapter file of `exp` itself
    base: Path | None = None  # folder of the base model, if it has moved
    overrides: tuple[str, ...] = ()  # of the experiment's yaml, such as train.lr=0.01
    allow_pipes: bool = False

    @property
    def target(self) -> RunFolder:
        """The folder whose adapter file the speakers are added to."""
        return RunFolder(self.out or self.exp)

    @property
    def words(self) -> list[str]:
        """The changes of the experiment's settings for the enrolment, in the form of --set."""
        return [*self.overrides, *self.words_of_out]

    @property
    def words_of_out(self) -> list[str]:
        """The changes of the experiment's settings in OUT, which has another name and maybe another base."""
        changes = {} if self.base is None else {"base.dir": str(self.base)}
        if self.out is not None:
            changes["name"] = self.out.resolve().name
        return experiment.setting(changes)

    @property
    def changed(self) -> dict[str, str]:
        """The settings that `overrides` change, each with the word that does."""
        return {word.partition("=")[0]: word for word in self.overrides}


def settings_of(options: EnrollOptions, settings: Experiment) -> Experiment:
    """Return the settings of an experiment, with the changes, for the training of new speakers.

    Batches are by speaker, also where the experiment trained one adapter for all. Without a validation set,
    and unless `train.folds` is set, `FOLDS` choose the number of epochs, which may be none: with few
    utterances the last weights can be far worse than the start.
    """
    changes: dict[str, Any] = {"shared": False}
    if options.valid is None and settings.train.folds is None and _FOLDS not in options.changed:
        changes |= {"folds": FOLDS, "patience": None, "average": 1}
    return settings.model_copy(update={"train": settings.train.model_copy(update=changes)})


def refuse_misuse(options: EnrollOptions) -> None:
    """Refuse options that contradict each other."""
    other = [word for word in options.overrides if not word.startswith("train.")]
    if other:
        raise ConfigError(f"--set {other[0]}: enrolment can change train.* only; remove this option")
    foreign = [word for name, word in options.changed.items() if name in _OF_TRAINING]
    if foreign:
        raise ConfigError(
            f"--set {foreign[0]}: has no effect on enrolment, in which shared weights are frozen and --start "
            "says where new speakers start; remove this option"
        )
    if options.out is not None and options.out.resolve() == options.exp.resolve():
        raise ConfigError(f"--out {options.out}: is EXP itself; omit --out to add to its adapter file")


def refuse_idle(options: EnrollOptions, training: AdapterTraining) -> None:
    """Refuse two ways of validating, and settings without effect; `training` is without the default folds."""
    if options.valid is not None and training.folds is not None:
        raise ConfigError(
            f"--valid {options.valid}: train.folds={training.folds} holds out utterances of --data in its "
            "place; omit --valid, or add --set train.folds=null"
        )
    if options.valid is not None or training.folds is not None:
        return
    for name, word in options.changed.items():
        if name in _OF_VALID:
            raise ConfigError(f"--set {word}: has no effect without --valid; add --valid, or remove this")
        if name in _OF_VALIDATION and _FOLDS in options.changed:
            raise ConfigError(
                f"--set {word}: has no effect without validation; add --valid, or omit --set train.folds=null"
            )
    if len(training.rates) > 1 and _FOLDS in options.changed:
        raise ConfigError(
            f"train.lr: none of {listed(map(str, training.rates))} can be chosen without validation; add "
            f"--valid, omit --set train.folds=null, or set one: --set train.lr={training.rates[0]}"
        )
