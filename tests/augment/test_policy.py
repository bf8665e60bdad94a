"""Policies: where their yaml is found, and what an experiment makes of them."""

import pytest

from adaptkit import config, experiment
from adaptkit.augment.policy import Mix, Policy, name_of, read_policy
from adaptkit.errors import ConfigError

SPEC = {"freq_masks": 1, "freq_width": 5}
NOISE = {"noises": ["noises"], "snr_db": [0, 20]}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with two policies in conf/augment, and the working folder egs/x below it."""
    config.write_yaml(tmp_path / "conf/augment/bins.yaml", {"spec": SPEC})
    config.write_yaml(tmp_path / "conf/augment/street.yaml", {"noise": NOISE, "mix": {"noisy": 0.5}})
    (tmp_path / "egs/x").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "egs/x")
    return tmp_path


@pytest.fixture
def load(folder):
    """Load an experiment with some augmentation of its adapters and its base model."""

    def run(*words, augment=None, base=None, augment_by=None, adapter=None):
        base = {"dir": "exp/base", "augment": base}
        config.write_yaml(folder / "x.yaml", {"name": "x", "base": base, "augment": augment})
        return experiment.load(folder / "x.yaml", words, adapter=adapter, augment=augment_by)

    return run


# found by name or path


def test_a_name_is_found_in_a_folder_above(folder):
    assert config.find_published("augment", "bins") == folder / "conf/augment/bins.yaml"


def test_what_is_nearer_wins(folder):
    config.write_yaml(folder / "egs/x/conf/augment/bins.yaml", {"spec": {**SPEC, "freq_masks": 3}})

    assert read_policy("bins").spec.freq_masks == 3
    assert read_policy("street").noise.snr_db == (0, 20)  # the others above are still found


@pytest.mark.parametrize("word", ["own.yaml", "./own.yaml", "../x/own.yaml"])
def test_a_path_is_read_as_it_is(folder, word):
    config.write_yaml(folder / "egs/x/own.yaml", {"spec": {**SPEC, "freq_masks": 4}})

    assert read_policy(word).spec.freq_masks == 4


def test_an_unknown_name_is_refused_with_the_nearest_or_all(folder):
    with pytest.raises(
        ConfigError, match="no conf/augment/bin.yaml here, above or in adaptkit; did you mean 'bins'?"
    ):
        config.find_published("augment", "bin")
    with pytest.raises(
        ConfigError, match="in adaptkit; did you mean 'libri_|in adaptkit; known: .*bins.*street"
    ):
        config.find_published("augment", "libri")


def test_overrides_change_a_named_policy(folder):
    assert read_policy("bins", ["spec.freq_masks=2", "speed=[0.9]"]) == Policy.model_validate(
        {"spec": {**SPEC, "freq_masks": 2}, "speed": [0.9]}
    )


@pytest.mark.parametrize(
    ("word", "name"), [("bins", "bins"), ("snr.5", "snr.5"), ("a/b.yaml", "b"), ("b.yml", "b")]
)
def test_a_policy_is_named_after_its_file(word, name):
    assert name_of(word) == name


@pytest.mark.parametrize(
    ("parts", "noisy", "masked"),
    [
        ({}, 0, 0),
        ({"spec": SPEC}, 0, 1),
        ({"noise": NOISE}, 0.2, 0),
        ({"spec": SPEC, "noise": NOISE}, 0.2, 0.8),
        ({"spec": SPEC, "noise": NOISE, "mix": {"noisy": 0.5, "masks_on": "all"}}, 0.5, 1),
    ],
)
def test_shares_are_those_of_the_mix_where_there_is_noise(parts, noisy, masked):
    policy = Policy.model_validate(parts)

    assert (policy.noisy_share, policy.masked_share) == pytest.approx((noisy, masked))


@pytest.mark.parametrize("mix", [{"noisy": 1.0}, {"masks_on": "all"}])
def test_a_mix_without_noise_is_refused(mix):
    with pytest.raises(ValueError, match="'mix' has no effect without 'noise'; set 'noise'"):
        Policy.model_validate({"spec": SPEC, "mix": mix})


def test_a_fifth_is_noisy_and_the_rest_masked_unless_said_otherwise():
    assert Policy().mix == Mix(noisy=0.2, masks_on="clean")


# in an experiment


def test_a_name_in_an_experiment_stands_for_the_whole_policy(load):
    loaded = load(augment="bins", base="street")

    assert (loaded.augment, loaded.base.augment) == (read_policy("bins"), read_policy("street"))


def test_a_named_policy_can_be_changed_by_set(load):
    loaded = load("augment.noise.snr_db=[5, 5]", "base.augment=bins", "base.augment.spec.freq_masks=3",
                  augment="street")  # fmt: skip

    assert (loaded.augment.noise.snr_db, loaded.augment.mix.noisy) == ((5, 5), 0.5)
    assert loaded.base.augment.spec.freq_masks == 3


def test_a_base_trains_by_its_own_yaml_and_adapters_by_nothing_unless_said_otherwise(folder):
    config.write_yaml(folder / "x.yaml", {"name": "x", "base": {"dir": "exp/base"}})
    loaded = experiment.load(folder / "x.yaml")

    assert (loaded.base.augment, loaded.augment) == ("own", None)


@pytest.mark.parametrize("augment", [None, "own", "bins", "street", {"spec": SPEC, "noise": NOISE}])
def test_an_experiment_is_saved_and_loaded_to_itself(load, folder, augment):
    loaded = load(augment=augment, base=augment)
    experiment.save(loaded, folder / "saved.yaml")
    (folder / "conf/augment/bins.yaml").unlink()  # a saved experiment holds its policy itself

    assert experiment.load(folder / "saved.yaml") == loaded


def test_problems_of_a_policy_come_with_the_others_under_their_full_keys(load):
    wrong = {"spec": {"freq_mask": 1, "freq_masks": -1}, "mix": {"noisy": 2}}
    with pytest.raises(ConfigError) as caught:
        load("train.lr=-1", augment=wrong, base={"noise": {"snr_db": [3, 1]}})

    message = str(caught.value)
    assert "6 problems" in message
    for key in ("augment.spec.freq_mask: unknown key; did you mean 'freq_masks'", "augment.spec.freq_masks:",
                "augment.mix.noisy:", "base.augment.noise.noises: missing",
                "base.augment.noise.snr_db: the lower limit 3 is above", "train.lr:"):  # fmt: skip
        assert f"\n  {key}" in message


@pytest.mark.parametrize("augment", [False, 3, [SPEC]])
def test_what_is_no_policy_is_refused(load, augment):
    with pytest.raises(ConfigError, match="augment: expected a policy, 'own' or null"):
        load(augment=augment)


def test_an_unknown_name_in_an_experiment_is_refused_with_the_nearest(load):
    for part in ({"augment": "binz"}, {"base": "binz"}):
        with pytest.raises(ConfigError, match="'binz': .*did you mean 'bins'"):
            load(**part)


# by --augment


def test_another_augmentation_names_the_experiment(load, folder):
    other = load("augment.spec.freq_masks=2", augment="street", augment_by="bins")

    assert (other.name, other.augment.spec.freq_masks, other.augment.noise) == ("bins", 2, None)


def test_another_augmentation_of_other_adapters_adds_its_name_to_theirs(load, folder):
    config.write_yaml(folder / "small.yaml", {"adapters": [{"kind": "residual"}]})

    assert load(adapter=str(folder / "small.yaml"), augment_by="bins").name == "small_bins"


def test_another_augmentation_names_the_base_model(load, folder):
    load(base="street")
    other = experiment.load_base(folder / "x.yaml", ["base.dir=here"], augment="bins")

    assert (other.base.name, other.base.augment, str(other.base.dir)) == ("bins", read_policy("bins"), "here")
    assert (other.name, other.augment) == ("x", None)
    assert experiment.load_base(folder / "x.yaml").base.name == "base"


@pytest.mark.parametrize("name", ["off", "1e3", "10", "null", "snr.5"])
def test_a_name_that_yaml_would_read_as_something_else_is_a_name(load, folder, name):
    config.write_yaml(folder / f"conf/augment/{name}.yaml", {"spec": SPEC})

    assert load(augment_by=name).name == name
    assert experiment.load_base(folder / "x.yaml", augment=name).base.name == name


def test_the_models_own_can_be_asked_for(load):
    assert (load(augment_by="own").augment, load(augment_by="own").name) == ("own", "own")
