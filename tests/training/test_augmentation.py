"""Policies by the words of a command line."""

from dataclasses import replace

import pytest

from adaptkit import config
from adaptkit.augment.policy import Policy
from adaptkit.errors import ConfigError
from adaptkit.training import augmentation

SPEC = {"freq_masks": 1, "freq_width": 5}
OWN = {"apply_time_warp": False, "apply_time_mask": False, "freq_mask_width_range": [0, 9]}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a policy in conf/augment."""
    config.write_yaml(tmp_path / "conf/augment/bins.yaml", {"spec": SPEC})
    config.write_yaml(tmp_path / "model.yaml", {"specaug": "specaug", "specaug_conf": OWN})
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_experiment(folder, **parts):
    base = {"dir": "exp/base", "model": str(folder / "model.yaml"), **parts.pop("base", {})}
    config.write_yaml(folder / "tiny.yaml", {"name": "tiny", "base": base, **parts})
    return str(folder / "tiny.yaml")


def test_a_name_is_a_policy_of_conf_augment(folder):
    assert augmentation.resolve("bins") == {"bins": Policy.model_validate({"spec": SPEC})}


def test_a_path_is_a_policy_named_after_its_file(folder):
    found = augmentation.resolve(str(folder / "conf/augment/bins.yaml"), ["spec.freq_masks=3"])

    assert found["bins"].spec.freq_masks == 3


def test_policies_of_base_and_adapters_may_not_share_a_name(folder):
    with pytest.raises(ConfigError, match="'name' and 'base.name' are both 'tiny'; rename"):
        augmentation.resolve(write_experiment(folder, augment="bins", base={"name": "tiny"}))


def test_an_experiment_has_those_of_its_base_model_and_its_adapters(folder):
    found = augmentation.resolve(write_experiment(folder, augment="bins"))

    assert {name: policy.spec.freq_width for name, policy in found.items()} == {
        "base": (0, 9),
        "tiny": (0, 5),
    }


def test_own_is_what_the_models_yaml_says_for_adapters_too(folder):
    found = augmentation.resolve(write_experiment(folder, augment="own", base={"augment": None}))

    assert {name: policy.spec.freq_width for name, policy in found.items()} == {"tiny": (0, 9)}


def test_own_of_a_model_that_is_given_is_in_its_config(folder):
    config.write_yaml(folder / "exp/base/config.yaml", {"specaug": "specaug", "specaug_conf": OWN})
    found = augmentation.resolve(write_experiment(folder, augment="own", base={"model": None}))

    assert list(found) == ["tiny"]


def test_a_model_without_specaug_has_no_policy(folder):
    config.write_yaml(folder / "model.yaml", {"specaug": None})

    assert augmentation.resolve(write_experiment(folder)) == {}


def test_an_experiment_takes_overrides(folder):
    found = augmentation.resolve(write_experiment(folder), ["augment=bins", "augment.spec.freq_masks=4"])

    assert found["tiny"].spec.freq_masks == 4


def test_two_policies_of_one_name_are_refused(folder):
    config.write_yaml(folder / "bins.yaml", {"spec": {**SPEC, "freq_masks": 2}})

    assert list(augmentation.resolve_all(["bins", "bins"])) == ["bins"]
    with pytest.raises(ConfigError, match="another policy is named 'bins' too"):
        augmentation.resolve_all(["bins", "bins.yaml"])


def test_an_unknown_name_is_refused_with_the_nearest(folder):
    with pytest.raises(ConfigError, match="did you mean 'bins'"):
        augmentation.resolve("binz")


@pytest.mark.parametrize("is_own", [False, True])
def test_windows_of_samples_are_not_masked(examples, new_base, is_own):
    changes = {"preencoder": "sinc", "preencoder_conf": {"out_channels": 128}, "frontend": "sliding_window"}
    changes |= {"input_size": None, "adaptkit": None, "normalize": None, "normalize_conf": {}}
    windows = new_base(**changes, frontend_conf={}, specaug="specaug", specaug_conf=OWN)
    policy = "own" if is_own else Policy.model_validate({"spec": SPEC})
    with pytest.raises(ConfigError, match="reads windows of samples .* set 'augment: null', or 'spec: null'"):
        augmentation.augmented(replace(examples, base=windows), policy, seed=0)
