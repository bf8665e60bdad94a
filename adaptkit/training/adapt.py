"""Training from Python, with plain arguments: `adaptkit.adapt` and `adaptkit.enroll`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from adaptkit import experiment
from adaptkit.training.enroll import enroll as enroll_speakers
from adaptkit.training.enroll_options import EnrollOptions
from adaptkit.training.run import train_adapters


def adapt(
    base: str | Path,
    train: str | Path,
    exp: str | Path,
    *,
    valid: str | Path | None = None,
    adapter: str = "residual",
    settings: Mapping[str, Any] | None = None,
    device: str = "cpu",
    resume: bool = False,
) -> Path:
    """Train adapters for every speaker of a data directory on a frozen base model, as `adaptkit train` does.

    `base` is the folder of a base model, an ESPnet archive or a zip; `train` and `valid` are data
    directories, with features if the base model reads these. Adapters and settings are written to the folder
    `exp`, which is returned; its last part is the experiment's name.

    `adapter` is an adapter type, or a yaml of adapters by its name in conf/adapters or its path. `settings`
    are those of an experiment by their full keys, such as `{"adapters.0.bottleneck": 16, "train.lr": 1e-3}`.
    Without `valid` there must be `"train.folds"`. `device` is cpu, cuda or cuda:N. With `resume` a run
    that was interrupted goes on, to the same weights, and a finished one is left as it is.

    What a user can mend is an AdaptkitError: a ConfigError for settings, a DataError for data directories, a
    CheckpointError for the base model or an `exp` that holds another run, a TrainingError for a loss that is
    not finite.

        exp = adaptkit.adapt("exp/base", "dump/train", "exp/mine", valid="dump/valid", adapter="lora")
    """
    folder = Path(exp)
    sets = {"train": str(train), "valid": None if valid is None else str(valid)}
    content = {"name": folder.name, "base": {"dir": str(base)}, "data": sets}
    made = experiment.make(content, settings or {}, adapter=adapter, where=folder)
    train_adapters(made, folder, device=device, resume=resume)
    return folder


def enroll(
    exp: str | Path,
    data: str | Path,
    *,
    out: str | Path | None = None,
    speakers: Sequence[str] = (),
    valid: str | Path | None = None,
    start: Literal["mean", "nearest", "new", "shared"] | None = None,
    settings: Mapping[str, Any] | None = None,
    device: str = "cpu",
) -> Path:
    """Train the weights of new speakers, all else frozen, as `adaptkit submodels enroll` does.

    `exp` is the folder of an experiment and `data` a data directory with the new `speakers`, or with new
    speakers only. They are added to a copy of the adapters in the folder `out`, or to those of `exp` itself;
    that folder is returned. Without `valid`, the number of epochs is chosen by cross-validation on
    `data` with 5 folds; `settings={"train.folds": None}` keeps the last weights. Only settings of `train` can
    change. New weights start from the
    shared adapter, if there is one, else from the mean of the known speakers, unless `start` says otherwise.

    A speaker whom `exp` knows, or whom `data` lacks, is an AdaptkitError.

        exp = adaptkit.enroll("exp/mine", "dump/anna", out="exp/mine_and_anna")
    """
    options = EnrollOptions(
        exp=Path(exp),
        data=Path(data),
        valid=None if valid is None else Path(valid),
        speakers=tuple(speakers),
        start=start,
        out=None if out is None else Path(out),
        overrides=tuple(experiment.setting(settings or {})),
    )
    return enroll_speakers(options, device=device)
