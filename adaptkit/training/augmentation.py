"""The augmentation of a run: a policy by name, that of an experiment, or the base model's own SpecAugment."""

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
from adaptkit.errors import ConfigError
from adaptkit.experiment import Experiment
from adaptkit.folders import RunFolder

_LOG = logging.getLogger(__name__)


def augmented(train: Examples, policy: Policy | Literal["own"] | None, seed: int) -> Examples:
    """Augment a training set by a policy, or by the SpecAugment of the base model's own yaml.

    Noisy features must differ from the extracted ones in nothing but the noise, so those are looked at.
    """
    if policy == "own":
        policy = _own_policy(train.base.config)
        described = policy.spec.model_dump(exclude_defaults=True) if policy else "none"
        _LOG.info("SpecAugment of the model's own yaml: %s", described)
    working = schedule.start(policy, seed, train.base.rate_hz) if policy else None
    train = replace(train, augmentation=working)
    if working and working.bank:
        refuse_other_features(train)
    if working and policy.spec and policy.spec.fill == "zero" and train.base.model.normalize is None:
        _LOG.warning(
            "the base model does not normalise features, so masks of zeros are not their mean; fill: mean is"
        )
    return train


def spec_of(train: Examples) -> SpecAugment | None:
    """Give the masks of a training set."""
    return train.augmentation.policy.spec if train.augmentation else None


def resolve_all(words: Sequence[str], overrides: Sequence[str] = ()) -> dict[str, Policy]:
    """Give the policies that some words mean; two of one name have to be the same."""
    found: dict[str, Policy] = {}
    for word in words:
        for name, policy in resolve(word, overrides).items():
            if found.setdefault(name, policy) != policy:
                raise ConfigError(f"{word}: another policy is named '{name}' too; rename one of them")
    return found


def resolve(word: str, overrides: Sequence[str] = ()) -> dict[str, Policy]:
    """Give the policies that a word means: one by its name or yaml, or those of an experiment's yaml.

    The latter are those of its base model, if the experiment trains it, and of its adapters, under their
    names; there are none where nothing is augmented.
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
    """Read the SpecAugment of the yaml that the base model is, or will be, built from."""
    return _own_policy(config.read_yaml(settings.base.model or RunFolder(settings.base.dir).config))


def _own_policy(model_config: Mapping[str, Any]) -> Policy | None:
    """Return the SpecAugment of a base model's own yaml as a policy; None where it has none."""
    spec = translate(model_config)
    return Policy(spec=spec) if spec else None
