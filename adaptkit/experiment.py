"""The configuration of an experiment: one yaml for base model, data, adapters and training."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from adaptkit import config
from adaptkit.adapters.api import AnyAdapterConfig
from adaptkit.adapters.catalog import available
from adaptkit.augment.policy import AnyPolicy, name_of, read_policy
from adaptkit.config import Config, FilePath, PositiveInt
from adaptkit.errors import ConfigError, listed, nearest
from adaptkit.search_options import AUTO, AnySearch, read_search
from adaptkit.training_options import AdapterTraining, Training

_ONCE_SAVED = {"task_utterances": 8, "temperature": 1.0}  # in base.train, where they never had an effect


class Sets(Config):
    """The data directories for training and validation, with features if the model reads features."""

    train: FilePath = Field(description="data directory to train on, for example dump/train")
    valid: FilePath = Field(description="data directory to select the best checkpoint on")
    test: tuple[FilePath, ...] = Field(
        (),
        description="test sets, of which training warns where they have utterances or sentences of 'train'",
    )


class AdapterSets(Sets):
    """The data directories for training adapters."""

    valid: FilePath | None = Field(
        None,
        description="data directory to select the best checkpoint on; null with train.folds, which hold out "
        "utterances of the training set instead",
    )


class Tokens(Config):
    """The output tokens of a new base model."""

    type: Literal["char", "bpe"] = Field("char", description="characters, or BPE (sentencepiece)")
    size: Annotated[PositiveInt, Field(le=1_000_000)] = Field(
        500, description="total number of BPE tokens; not used for characters"
    )


class Prompt(Config):
    """What an OWSM model is asked to do; its tokens `<eng>` and `<asr>` are written without < and >."""

    language: str = Field("eng", description="language of the speech, one of the model's tokens: eng, deu")
    task: str = Field("asr", description="asr to transcribe; st_deu to translate to German")

    @field_validator("language", "task")
    @classmethod
    def _be_bare(cls, name: str) -> str:
        return name.removeprefix("<").removesuffix(">")


class Base(Config):
    """The base model: its folder and, if adaptkit trains it, how."""

    dir: FilePath = Field(description="its folder, an ESPnet archive, a zip or a model file")
    model: FilePath | None = Field(
        None,
        description="ESPnet training yaml, or its name in conf/base; only its model options are used; null: "
        "the architecture and tokens of init",
    )
    init: FilePath | None = Field(
        None,
        description="base model whose weights it starts from: all of them, without the output layer if the "
        "tokens differ; null: random weights",
    )
    tokens: Tokens = Field(Tokens(), description="output tokens of the model")
    prompt: Prompt | None = Field(
        None,
        description="prompt of an OWSM model, which adapters are trained for; null: that of its config.yaml, "
        "else eng and asr",
    )
    name: str = Field("base", description="name of the model and of its row in a report")
    data: Sets | None = Field(None, description="data it is trained on")
    augment: AnyPolicy = Field(
        "own", description="augmentation, by name or written out; own: the SpecAugment of the model's yaml"
    )
    train: Training = Field(Training(), description="how it is trained")

    @field_validator("train", mode="before")
    @classmethod
    def _drop_once_saved(cls, train: Any) -> Any:
        """Drop the defaults of adapters' options that earlier versions wrote out here."""
        if not isinstance(train, dict):
            return train
        return {key: value for key, value in train.items() if (key, value) not in _ONCE_SAVED.items()}


class Experiment(Config):
    """An experiment; `adaptkit base train` uses only `base`, `adaptkit train` all of it."""

    name: str = Field(max_length=100, description="name of the folder exp/<name> and of the row in a report")
    base: Base = Field(description="the base model")
    data: AdapterSets | None = Field(None, description="data the adapters are trained on")
    adapters: tuple[AnyAdapterConfig, ...] = Field(
        (), description="adapters, each with its kind; applied in this order at each site"
    )
    augment: AnyPolicy = Field(
        None, description="augmentation, by name or written out; own: the base's SpecAugment; null for none"
    )
    train: AdapterTraining = Field(AdapterTraining(), description="how the adapters are trained")
    search: AnySearch = Field(
        AUTO, description="search for decoding, by name or written out; auto: what suits the model"
    )

    @field_validator("name")
    @classmethod
    def _be_a_folder(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][\w.+-]*", name):
            raise ValueError("expected letters, digits and . _ + - since it names a folder")
        return name


class Variant(Config):
    """An entry of an experiment's `compare:`: adapters to train in place of its own."""

    adapter: str | None = Field(
        None,
        description="adapters to start from, as `--adapter` names them; null: those of the entry's name",
    )
    set: dict[str, Any] = Field({}, description="settings that override it, as in adapters.0.bottleneck")


def load(
    path: Path,
    overrides: Sequence[str] = (),
    *,
    adapter: str | None = None,
    augment: str | None = None,
    shared: bool = False,
) -> Experiment:
    """Read and validate an experiment; `overrides` are like `adapters.0.bottleneck=32`.

    `adapter` replaces the adapters, and possibly training options. It is an entry of the yaml's `compare:`,
    which starts from what its `adapter` or its own name refers to and then sets what it lists. A name refers
    to the yaml's own `adapters:` if it is that of the experiment, or else to a yaml in `conf/adapters`, or to
    an adapter type; a path refers to the yaml there. `augment` is another augmentation, by name or path. The
    experiment is then named after them. `shared` trains one adapter for all speakers, and adds `_shared` to
    the name.
    """
    content = config.read_yaml(path)
    variants = _read_variants(content, path)
    words = [] if adapter is None else _replacing(adapter, variants, content)
    names = [] if adapter is None else [_name_of_adapter(adapter)]
    if augment is not None:
        names.append(name_of(augment))
        words += setting({"augment": augment})
    if shared:
        names = [*(names or [str(content.get("name"))]), "shared"]
        words += setting({"train.shared": True})
    if augment is not None or shared:
        words += setting({"name": "_".join(names)})
    return _resolve(content, [*words, *overrides], path)


def make(content: Mapping[str, Any], changes: Mapping[str, Any], *, adapter: str, where: Path) -> Experiment:
    """Validate an experiment that a program describes; `where` names it in messages.

    `adapter` gives its adapters and perhaps training options, as that of `load`; `changes` are settings by
    their full keys, such as `adapters.0.bottleneck`.
    """
    words = [*_replacing(adapter, {}, {}), *setting({"name": content["name"], **changes})]
    return _resolve(dict(content), words, where)


def load_base(path: Path, overrides: Sequence[str] = (), *, augment: str | None = None) -> Experiment:
    """Read an experiment for training its base model; `augment` replaces its augmentation and its name."""
    content = config.read_yaml(path)
    _read_variants(content, path)
    changes = {} if augment is None else {"base.name": name_of(augment), "base.augment": augment}
    return _resolve(content, [*setting(changes), *overrides], path)


def base_in(folder: Path, overrides: Sequence[str] = ()) -> Base:
    """Return the settings of the base model in a folder, of which `overrides` change the prompt alone."""
    others = [word for word in overrides if not word.startswith("base.prompt")]
    if others:
        raise ConfigError(
            f"{folder}: a base model, of which --set changes base.prompt alone, not {listed(others)}; name "
            "the yaml of an experiment to change its settings"
        )
    content: dict[str, Any] = {"base": {"dir": str(folder)}}
    for word in overrides:
        config.apply(content, word)
    return config.check(Base, content["base"], "base")


def _resolve(content: dict[str, Any], overrides: Sequence[str], path: Path) -> Experiment:
    """Validate an experiment; names are resolved before a later override changes what they refer to."""
    _expand_names(content)
    for word in overrides:
        config.apply(content, word)
        _expand_names(content)
    return config.check(Experiment, content, str(path))


def _expand_names(content: dict[str, Any]) -> None:
    """Read the policies named in `augment` and `base.augment`, and the search named in `search`."""
    for part in (content, content.get("base")):
        if isinstance(part, dict) and isinstance(part.get("augment"), str) and part["augment"] != "own":
            part["augment"] = config.dump(read_policy(part["augment"]))
    if isinstance(content.get("search"), str) and content["search"] != AUTO:
        content["search"] = config.dump(read_search(content["search"]))


def _read_variants(content: dict[str, Any], path: Path) -> dict[str, Variant]:
    """Remove the section `compare:` from an experiment's yaml and validate it."""
    given = content.pop("compare", None) or {}
    if not isinstance(given, dict):
        raise ConfigError(f"{path}: compare: expected 'name: {{adapter: ..., set: {{...}}}}' lines")
    variants = {
        name: config.check(Variant, row or {}, f"{path}: compare.{name}") for name, row in given.items()
    }
    own = variants.get(str(content.get("name")))
    if own and own.adapter and content.get("adapters"):
        raise ConfigError(
            f"{path}: compare.{content['name']}: adapter: the experiment has this name, so the entry starts "
            f"from its own 'adapters:', not from '{own.adapter}'; drop 'adapter', or rename one of the two"
        )
    return variants


def _replacing(adapter: str, variants: Mapping[str, Variant], content: Mapping[str, Any]) -> list[str]:
    """Return the overrides that replace an experiment's adapters."""
    variant = variants.get(adapter, Variant(adapter=adapter))
    word = variant.adapter or adapter
    is_own = word == content.get("name") and content.get("adapters")
    given = {"adapters": content["adapters"]} if is_own else _read_adapters(word, variants)
    train = {f"train.{name}": value for name, value in (given.get("train") or {}).items()}
    changes = {"name": _name_of_adapter(adapter), "adapters": given["adapters"], **train, **variant.set}
    return setting(changes)


def _read_adapters(word: str, variants: Mapping[str, Variant]) -> dict[str, Any]:
    """Read a yaml of adapters by its name in `conf/adapters` or its path, or use an adapter type as is."""
    path = config.find_optional("adapters", word)
    if path is None and word in available():
        return {"adapters": [{"kind": word}]}
    if path is None:
        known = sorted({*variants, *config.published_names("adapters"), *available()})
        near = nearest(word, known) or f"; known: {', '.join(known)}"
        raise ConfigError(f"--adapter {word}: neither a yaml of adapters nor an adapter type{near}")
    given = config.read_yaml(path)
    if "adapters" not in given or set(given) - {"adapters", "train"}:
        raise ConfigError(
            f"{path}: expected 'adapters' and optionally 'train', found "
            f"{listed(map(str, given)) or 'nothing'}"
        )
    if not isinstance(given.get("train") or {}, dict):
        raise ConfigError(f"{path}: train: expected 'key: value' lines, found {given['train']!r}")
    return given


def _name_of_adapter(word: str) -> str:
    return Path(word).stem if config.is_path(word) else word


def setting(changes: Mapping[str, Any]) -> list[str]:
    """Return the overrides that set keys to values, as json, which keeps the string `off` a string."""
    return [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in changes.items()]


def save(experiment: Experiment, path: Path) -> None:
    """Write an experiment with every default, for `load` to read back."""
    config.write_yaml(path, config.dump(experiment))
