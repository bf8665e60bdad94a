"""Train a base model: from scratch, from another's weights, or by training another further."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, distributed

from adaptkit import config
from adaptkit.base import build, checkpoint, create, importing, warm_start
from adaptkit.base.checkpoint import BaseModel
from adaptkit.data.dataset import Examples
from adaptkit.errors import ConfigError
from adaptkit.experiment import Base, Experiment
from adaptkit.files import remove
from adaptkit.folders import RunFolder
from adaptkit.model.adapted import AdaptedModel
from adaptkit.records import RecordedModel
from adaptkit.training.augmentation import augmented, spec_of
from adaptkit.training.distributed import in_processes, is_first, of_first, writing_to
from adaptkit.training.loop import fit
from adaptkit.training.plan import Plan
from adaptkit.training.precision import seed_everything
from adaptkit.training.run import effort_of, read_sets, record_run
from adaptkit.training.state import State, describe_contents, digest, identify, refuse_another
from adaptkit.training.validation import choose_metric


def train_base(settings: Experiment, *, device: str, resume: bool = False, allow_pipes: bool = False) -> None:
    """Train a base model in the same loop, with all weights trainable.

    It starts from random weights or from those of `base.init`, which need not exist any more to resume.
    """
    wanted = settings.base
    _refuse_incomplete(wanted)
    folder = wanted.dir
    with in_processes(device), writing_to(folder):
        refuse_another(folder, resume=resume)
        is_new = of_first(not RunFolder(folder).state.exists())
        source = checkpoint.load(wanted.init) if wanted.init is not None and is_new else None
        model_config = _make_model_config(settings, source, is_new=is_new)
        seed_everything(wanted.train.seed, 0)
        where = str(wanted.model or RunFolder(folder).config)
        base = checkpoint.wrap(folder, model_config, build.build(model_config, where).to(device))
        is_whole = source is not None and warm_start.take_over(base, source)
        train, valid = read_sets(wanted.data, base, allow_pipes)
        train = augmented(train, wanted.augment, wanted.train.seed)
        model_config = _add_augmentation(model_config, train)
        metric = choose_metric(wanted.train.valid_metric, valid)

        def write(weights: Mapping[str, Tensor], state: State) -> None:
            remove(RunFolder(folder).record)  # of these weights once training has finished
            checkpoint.save(folder, model_config, weights)

        def finish(state: State) -> None:
            made, saved = (
                RecordedModel(wanted.name, "base", (), base.num_parameters, 0, (), metric),
                checkpoint.load(folder, is_finished=False),  # but for its record
            )
            record_run(folder, made, saved, effort=effort_of(state, wanted.train.seed), device=device)

        identity = {
            **identify(settings, "base"),
            **describe_contents(train, valid),
            **_describe_model(wanted),
        }
        plan = Plan(train, valid, folder, wanted.train, identity, write, finish, ranks_start=is_whole)
        fit(AdaptedModel(base, spec=spec_of(train)), plan, resume=resume)


def _refuse_incomplete(wanted: Base) -> None:
    if wanted.data is None or wanted.model is None and wanted.init is None:
        raise ConfigError(
            "base: training needs 'data' (train, valid), and 'model' (ESPnet's yaml) or 'init' (a base model "
            "to train further)"
        )
    if wanted.init is not None and wanted.init.resolve() == wanted.dir.resolve():
        raise ConfigError(
            f"base.init: {wanted.init} is base.dir too; continue a finished training with --resume and "
            "a larger base.train.max_epochs, or name another folder as base.dir"
        )


def _describe_model(wanted: Base) -> dict[str, str]:
    """Return a digest of the model's yaml, which a resumed run compares."""
    if wanted.model is None:
        return {}
    return {"model": digest(config.read_yaml(config.find_published("base", wanted.model)))}


def _make_model_config(settings: Experiment, source: BaseModel | None, *, is_new: bool) -> dict[str, Any]:
    """Make the model's yaml for a new run, in the first process, or read that of a run to be resumed.

    A resumed run keeps its tokens and statistics even if the data have changed.
    """
    wanted, folder = settings.base, RunFolder(settings.base.dir)
    if not is_new:
        return config.read_yaml(folder.config)
    described: list[dict[str, Any] | None] = [None]
    if is_first():
        described = [
            importing.copy_parts(source, wanted.dir)
            if wanted.model is None
            else create.make_config(
                config.find_published("base", wanted.model),
                wanted.data.train,
                wanted.dir,
                token_type=wanted.tokens.type,
                num_tokens=wanted.tokens.size,
            )
        ]
        config.write_yaml(folder.config, described[0])
    if distributed.is_initialized():
        distributed.broadcast_object_list(described)
    return described[0]


def _add_augmentation(model_config: Mapping[str, Any], train: Examples) -> dict[str, Any]:
    """Return a base model's yaml with its training augmentation in the section `adaptkit`."""
    policy = config.dump(train.augmentation.policy) if train.augmentation else None
    return {**model_config, "adaptkit": {**(model_config.get("adaptkit") or {}), "augment": policy}}
