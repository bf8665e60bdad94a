"""`adaptkit config describe`: the keys of an experiment's yaml."""

import json
import re
import subprocess
import sys

import pytest

from adaptkit import config, experiment
from adaptkit.adapters import api
from adaptkit.adapters.catalog import available
from adaptkit.errors import ConfigError
from adaptkit.experiment_keys import find_keys, list_section, section_names


@pytest.fixture
def describe(adaptkit):
    """Run `adaptkit config describe`; return its lines, each as the words between wide gaps."""

    def run(*words):
        lines = adaptkit("config", "describe", *words).stdout.splitlines()
        return [re.split(r"  +", line) for line in lines]

    return run


def leaves(content, prefix=""):
    """Return the full keys of a nested mapping, sections too."""
    for name, value in content.items():
        yield f"{prefix}{name}"
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{name}.")


def test_every_key_of_a_saved_experiment_is_listed(settings):
    made = config.dump(settings())
    known = {key.name for name in (*section_names(), "base.augment") for key in find_keys(name)}
    assert set(leaves(made)) - known == set()


def test_defaults_are_those_of_an_experiment_that_names_none():
    made = config.dump(experiment.Experiment.model_validate({"name": "x", "base": {"dir": "exp/base"}}))
    for key in list_section("train") + list_section("base"):
        value = made
        for part in key.name.split("."):
            value = value[part] if isinstance(value, dict) else None
        if value is not None and not key.is_required and not isinstance(value, dict):
            assert key.default == value, key.name


def test_every_key_has_a_type_and_help():
    assert [key for key in list_section("all") if not (key.type and key.help)] == []


def test_options_of_every_adapter_type_are_listed():
    found = {(key.kind, key.name) for key in list_section("adapters")}
    expected = {
        (kind, f"adapters.0.{name}")
        for kind in available()
        for name in api.load_kind(kind).Config.model_fields
        if name != "kind"
    }
    assert found == {*expected, ("", "adapters.0.kind")}


def test_one_key_is_a_row(describe):
    assert describe("train.clip_norm")[0] == ["key", "type", "default", "help"]
    assert describe("train.lr")[1][:3] == ["train.lr", "number > 0 | [number > 0]", "0.001"]
    (_, row) = describe("base.augment.noise.num_rooms")
    assert row == ["base.augment.noise.num_rooms", "integer > 0 <= 1000", "100", "number of simulated rooms"]


def test_a_key_of_several_adapter_types_has_a_row_for_each(describe):
    kinds = [row[1] for row in describe("adapters.3.bottleneck")[1:]]
    assert kinds == ["residual", "tpa"]


def test_a_section_below_another_lists_its_keys(describe):
    names = [row[0] for row in describe("augment.mix")]
    assert names == ["key", "augment.mix", "augment.mix.noisy", "augment.mix.masks_on"]


def test_json_has_the_same_keys(adaptkit):
    done = adaptkit("config", "describe", "search", "--json")
    found = [(row["name"], row["kind"]) for row in json.loads(done.stdout)]
    assert found == [(key.name, key.kind) for key in list_section("search")]


@pytest.mark.parametrize(
    ("word", "near"),
    [
        ("lr", "did you mean base.train.lr or train.lr"),
        ("trian.lr", "did you mean train.lr"),
        ("xyz123", "'adaptkit config describe' lists all"),
    ],
)
def test_a_wrong_key_is_refused_with_the_nearest(word, near):
    with pytest.raises(ConfigError, match=f"'{word}': no such key; .*{near}"):
        find_keys(word)


def test_options_of_training_and_adapters_need_no_torch():
    program = (
        "import sys\nfrom adaptkit.experiment_keys import find_keys\n"
        "find_keys('train'), find_keys('adapters'), find_keys('search.lm')\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
