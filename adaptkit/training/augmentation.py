"""The augmentation of a run: a named policy, an experiment's policy, or the base model's own SpecAugment."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from adaptkit import config, experiment
from adaptkit.augment import schedule
from adaptkit.augment.policy import Policy, read_policy
from adaptkit.augment.specaugment import SpecAugment
from adaptkit.base.specaug import translate
from adaptkit.data.dataset import Examples, refuse_other_features
from adaptkit.data.speeds import with_speeds
from adaptkit.errors import ConfigError
from adaptkit.experiment import Experiment
from adaptkit.folders import RunFolder

_LOG = logging.getLogger(__name__)


def augmented(train: Examples, policy: Policy | Literal["own"] | None, seed: int) -> Examples:
    """Augment a training set by a policy, or by the SpecAugment of the base model's own yaml.

    For noise and other speeds, features are computed during training; they must match the extracted ones.
    """
    if policy == "own":
        policy = _own_policy(train.base.config)
        described = policy.spec.model_dump(exclude_defaults=True) if policy else "none"
        _LOG.info("SpecAugment of the model's own yaml: %s", described)
    if policy and policy.spec and train.base.config["frontend"] == "sliding_window":
        raise ConfigError(
            f"augment.spec: {train.base.path} reads windows of samples (frontend: sliding_window), and "
            "SpecAugment masks features; set 'augment: null', or 'spec: null' in the policy"
        )
    working = schedule.start(policy, seed, train.base.rate_hz) if policy else None
    train = replace(train, augmentation=working)
    if working and (working.bank or policy.speeds != (1.0,)):
        refuse_other_features(train)
    train = with_speeds(train) if working else train
    if working and policy.spec and policy.spec.fill == "zero" and train.base.model.normalize is None:
        _LOG.warning(
            "the base model does not normalise features, so masks of zeros differ from their mean; "
            "consider 'fill: mean'"
        )
    return train


def spec_of(train: Examples) -> SpecAugment | None:
    """Return the SpecAugment settings of a training set, if any."""
    return train.augmentation.policy.spec if train.augmentation else None


def resolve_all(words: Sequence[str], overrides: Sequence[str] = ()) -> dict[str, Policy]:
    """Return the policies of several words by name; two policies of one name must be equal."""
    found: dict[str, Policy] = {}
    for word in words:
        for name, policy in resolve(word, overrides).items():
            if found.setdefault(name, policy) != policy:
                raise ConfigError(f"{word}: another policy is named '{name}' too; rename one of them")
    return found


def resolve(word: str, overrides: Sequence[str] = ()) -> dict[str, Policy]:
    """Return the policies, by name, of a policy's name or yaml, or of an experiment's yaml.

    An experiment has one for its adapters and, if it trains its base model, one for that; none if nothing is
    augmented.
    """
    path = config.find_published("augment", word)
    if "base" not in config.read_yaml(path):
        return {path.stem: read_policy(path, overrides)}
    read = experiment.load(path, overrides)
    given = [(read.base.name, read.base.augment if read.base.model else None), (read.name, read.augment)]
    found = [(name, _read_own(read) if policy == "own" else policy) for name, policy in given]
    named = {name: policy for name, policy in found if policy is not None}
    if len(named) < sum(policy is not None for _, policy in found):
        raise ConfigError(f"{path}: 'name' and 'base.name' are both '{read.name}'; rename one of them")
    return named


def _read_own(settings: Experiment) -> Policy | None:
    """Read the SpecAugment of the yaml that the base model is built from."""
    base = settings.base
    path = config.find_published("base", base.model) if base.model else RunFolder(base.dir).config
    return _own_policy(config.read_yaml(path))


def _own_policy(model_config: Mapping[str, Any]) -> Policy | None:
    """Return the SpecAugment of a base model's own yaml as a policy; None if it has none."""
    spec = translate(model_config)
    return Policy(spec=spec) if spec else None
