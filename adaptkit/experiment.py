"""The configuration of an experiment: one yaml for base model, data, adapters and training."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, field_validator

from adaptkit import config
from adaptkit.adapters.api import AnyAdapterConfig
from adaptkit.adapters.catalog import available
from adaptkit.augment.policy import AnyPolicy, name_of, read_policy
from adaptkit.config import Config
from adaptkit.errors import ConfigError, listed, nearest


class Sets(Config):
    """The data directories of a training, with features where the model reads features."""

    train: Path = Field(description="data directory to train on, for example dump/train")
    valid: Path = Field(description="data directory that chooses the best checkpoint")


class Training(Config):
    """How a model or its adapters are trained."""

    max_epochs: PositiveInt = Field(20, description="passes over the training set")
    batch_frames: PositiveInt = Field(12000, description="feature frames of a batch, padding included")
    task_utterances: PositiveInt = Field(
        8,
        description="utterances of one task in a step, its own batch; a batch holds those of several; "
        "nothing for a base model and for adapters of which tasks own nothing",
    )
    temperature: PositiveFloat = Field(
        1.0,
        description="T: a task's share of an epoch goes with its size to the 1/T; 1 takes every utterance; "
        "nothing for a base model and for adapters of which tasks own nothing",
    )
    optimizer: Literal["adamw", "sgd"] = Field("adamw", description="sgd is plain, without momentum")
    lr: PositiveFloat = Field(1e-3, description="highest learning rate")
    weight_decay: NonNegativeFloat = Field(0.0, description="decoupled weight decay")
    warmup_steps: NonNegativeInt = Field(
        50, description="steps over which the learning rate rises from 0; those of each task by itself"
    )
    schedule: Literal["constant", "linear", "cosine", "inverse_sqrt"] = Field(
        "linear", description="decay after the warm-up; linear and cosine reach 0 after the last step"
    )
    clip_norm: PositiveFloat | None = Field(
        5.0, description="bound on the norm of a task's gradient, and of what is shared; null for none"
    )
    accumulate: PositiveInt = Field(1, description="batches per optimiser step")
    precision: Literal["float32", "bfloat16", "float16"] = Field(
        "float32",
        description="of the forward pass (autocast); weights stay float32. float16 scales the loss and skips "
        "the step of all tasks where a gradient of one overflows",
    )
    patience: PositiveInt | None = Field(
        None,
        description="stop after so many validations that were no better, by WER and then by loss, each task "
        "by itself",
    )
    valid_every: PositiveInt = Field(1, description="epochs between validations")
    average: PositiveInt = Field(1, description="best checkpoints whose weights are averaged at the end")
    save_every_steps: PositiveInt = Field(500, description="optimiser steps between saves within an epoch")
    num_workers: NonNegativeInt = Field(0, description="processes that load batches; 0 loads in the main one")
    seed: NonNegativeInt = Field(0, description="of the initialisation, the order of batches and dropout")


class Tokens(Config):
    """The outputs of a new base model."""

    type: Literal["char", "bpe"] = Field("char", description="characters, or BPE by sentencepiece")
    size: PositiveInt = Field(500, description="number of BPE tokens in all; characters are counted")


class Base(Config):
    """Where the base model is and, if it is ours to train, how."""

    dir: Path = Field(description="folder with config.yaml and model.pth")
    model: Path | None = Field(
        None,
        description="ESPnet's training yaml, or its name in conf/base; the training is adaptkit's own",
    )
    tokens: Tokens = Field(Tokens(), description="outputs of the model")
    name: str = Field("base", description="names it, and the row of a report")
    data: Sets | None = Field(None, description="what it is trained on")
    augment: AnyPolicy = Field(
        "own", description="augmentation by name or in full; own: the SpecAugment of the model's own yaml"
    )
    train: Training = Field(Training(), description="how it is trained")


class Experiment(Config):
    """An experiment; `adaptkit base train` reads `base`, `adaptkit train` the rest too."""

    name: str = Field(description="names exp/<name>, and the row of a report")
    base: Base = Field(description="the base model")
    data: Sets | None = Field(None, description="what the adapters are trained on")
    adapters: tuple[AnyAdapterConfig, ...] = Field(
        (), description="each with its kind; they act in this order at each site"
    )
    augment: AnyPolicy = Field(
        None, description="augmentation by name or in full; own: the base model's SpecAugment; null for none"
    )
    train: Training = Field(Training(), description="how the adapters are trained")

    @field_validator("name")
    @classmethod
    def _be_a_folder(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][\w.+-]*", name):
            raise ValueError("expected letters, digits and . _ + - since it names a folder")
        return name


class Variant(Config):
    """A row of an experiment's `compare:`, adapters that are trained in place of its own."""

    adapter: str | None = Field(None, description="a yaml of adapters by name or path; the row's own name")
    set: dict[str, Any] = Field({}, description="settings that differ from it, as in adapters.0.bottleneck")


def load(
    path: Path, overrides: Sequence[str] = (), *, adapter: str | None = None, augment: str | None = None
) -> Experiment:
    """Read and check an experiment; `overrides` are words like `adapters.0.bottleneck=32`.

    `adapter` replaces the adapters, and perhaps options of their training: it is a row of the yaml's
    `compare:`, a yaml by its name in `conf/adapters` or by its path, or an adapter type. `augment` is another
    augmentation, by name or path. The experiment is then named after them.
    """
    content = config.read_yaml(path)
    variants = _read_variants(content, path)
    words = [] if adapter is None else _replacing(adapter, variants)
    if augment is not None:
        names = [name_of(augment)] if adapter is None else [_name_of_adapter(adapter), name_of(augment)]
        words += setting({"name": "_".join(names), "augment": augment})
    return _resolve(content, [*words, *overrides], path)


def load_base(path: Path, overrides: Sequence[str] = (), *, augment: str | None = None) -> Experiment:
    """Read an experiment to train its base model, which is named after another augmentation, if given."""
    content = config.read_yaml(path)
    _read_variants(content, path)
    changes = {} if augment is None else {"base.name": name_of(augment), "base.augment": augment}
    return _resolve(content, [*setting(changes), *overrides], path)


def _resolve(content: dict[str, Any], overrides: Sequence[str], path: Path) -> Experiment:
    """Check an experiment; names are resolved before a later override changes what they mean."""
    _expand_names(content)
    for word in overrides:
        config.apply(content, word)
        _expand_names(content)
    return config.check(Experiment, content, str(path))


def _expand_names(content: dict[str, Any]) -> None:
    """Read the policies named in `augment` and `base.augment`, and find the yaml named in `base.model`."""
    for part in (content, content.get("base")):
        if isinstance(part, dict) and isinstance(part.get("augment"), str) and part["augment"] != "own":
            part["augment"] = config.dump(read_policy(part["augment"]))
    base = content.get("base")
    if isinstance(base, dict) and isinstance(base.get("model"), str):
        base["model"] = str(config.find_published("base", base["model"]))


def _read_variants(content: dict[str, Any], path: Path) -> dict[str, Variant]:
    """Take the section `compare:` out of an experiment's yaml."""
    given = content.pop("compare", None) or {}
    if not isinstance(given, dict):
        raise ConfigError(f"{path}: compare: expected 'name: {{adapter: ..., set: {{...}}}}' lines")
    return {name: config.check(Variant, row or {}, f"{path}: compare.{name}") for name, row in given.items()}


def _replacing(adapter: str, variants: Mapping[str, Variant]) -> list[str]:
    """Write the words that put other adapters in place of an experiment's own."""
    variant = variants.get(adapter, Variant(adapter=adapter))
    given = _read_adapters(variant.adapter or adapter, variants)
    train = {f"train.{name}": value for name, value in (given.get("train") or {}).items()}
    changes = {"name": _name_of_adapter(adapter), "adapters": given["adapters"], **train, **variant.set}
    return setting(changes)


def _read_adapters(word: str, variants: Mapping[str, Variant]) -> dict[str, Any]:
    """Read a yaml of adapters by its name in `conf/adapters` or its path, or take an adapter type."""
    path = config.find_optional("adapters", word)
    if path is None and word in available():
        return {"adapters": [{"kind": word}]}
    if path is None:
        known = sorted({*variants, *config.published_names("adapters"), *available()})
        near = nearest(word, known) or f"; known: {', '.join(known)}"
        raise ConfigError(f"--adapter {word}: no such adapters{near}")
    given = config.read_yaml(path)
    if "adapters" not in given or set(given) - {"adapters", "train"}:
        raise ConfigError(
            f"{path}: expected 'adapters' and perhaps 'train', not {listed(given) or 'nothing'}"
        )
    return given


def _name_of_adapter(word: str) -> str:
    return Path(word).stem if config.is_path(word) else word


def setting(changes: Mapping[str, Any]) -> list[str]:
    """Give the words that set keys to values; json is yaml too, and keeps the text `off` text."""
    return [f"{key}={json.dumps(value)}" for key, value in changes.items()]


def save(experiment: Experiment, path: Path) -> None:
    """Write an experiment with every default, as `load` reads it back."""
    config.write_yaml(path, config.dump(experiment))
