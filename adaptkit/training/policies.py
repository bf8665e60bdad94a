"""Policies by the words of a command line: names, yaml files, and experiments with what they augment by."""

from collections.abc import Sequence

from adaptkit import config, experiment
from adaptkit.augment.policy import Policy, find, read_policy
from adaptkit.base.specaug import translate
from adaptkit.errors import ConfigError
from adaptkit.experiment import Experiment


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
    path = find(word)
    if "base" not in config.read_yaml(path):
        return {path.stem: read_policy(path, overrides)}
    read = experiment.load(path, overrides)
    given = [(read.base.name, read.base.augment if read.base.model else None), (read.name, read.augment)]
    found = [(name, _own(read) if policy == "own" else policy) for name, policy in given]
    named = {name: policy for name, policy in found if policy is not None}
    if len(named) < sum(policy is not None for _, policy in found):
        raise ConfigError(f"{path}: 'name' and 'base.name' are both '{read.name}'; rename one of them")
    return named


def _own(read: Experiment) -> Policy | None:
    """Give the SpecAugment of the base model's own yaml as a policy."""
    spec = translate(config.read_yaml(read.base.model or read.base.dir / "config.yaml"))
    return Policy(spec=spec) if spec else None
