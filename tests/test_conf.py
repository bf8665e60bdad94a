"""The published settings under conf/."""

import re
from pathlib import Path

import pytest

from adaptkit import config
from adaptkit.adapters import api
from adaptkit.adapters.catalog import available
from adaptkit.augment.policy import Policy, read_policy

CONF = Path(__file__).parents[1] / "conf"
FOLDER = CONF / "adapters"
POLICIES = sorted((CONF / "augment").glob("*.yaml"))


def by_file(test):
    return pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)(test)


@by_file
def test_settings_of_adapters_are_valid(path):
    content = config.read_yaml(path)
    assert set(content) == {"adapters"}
    assert [api.read_config(entry) for entry in content["adapters"]]


@by_file
def test_settings_of_adapters_name_a_paper(path):
    comments = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert "arXiv:" in " ".join(comments)


@by_file
def test_settings_are_named_after_the_kinds_in_them(path):
    kinds = [entry["kind"] for entry in config.read_yaml(path)["adapters"]]
    assert f"{path.stem}_".startswith("_".join(kinds) + "_")


def test_every_kind_has_settings_of_its_name():
    assert set(available()) <= {path.stem for path in FOLDER.glob("*.yaml")}


by_policy = pytest.mark.parametrize("path", POLICIES, ids=lambda path: path.stem)


@by_policy
def test_policies_are_valid_and_do_what_their_name_says(path):
    policy = read_policy(path)

    assert (policy.noise is not None) == path.stem.startswith(("mtr", "stacked", "mixed"))
    assert (policy.spec is None) == path.stem.startswith(("mtr", "plain"))
    assert (policy.mix.masks_on == "all") == path.stem.startswith("stacked")


@by_policy
def test_policies_name_their_paper(path):
    source = re.search(r"arXiv:\d{4}\.\d{5}|Interspeech \d{4}", path.read_text())
    assert source or read_policy(path) == Policy()


def test_policies_that_are_compared_differ_in_one_thing():
    named = {path.stem: read_policy(path) for path in POLICIES}
    noises = {policy.noise.model_dump_json() for policy in named.values() if policy.noise}
    specs = {"": named["libri_full_adapt"].spec, "_mild": named["adapt_mild"].spec}

    assert len(noises) == 1
    for suffix, spec in specs.items():
        mixed, stacked = (named[f"{name}{suffix}"] for name in ("mixed", "stacked"))
        assert mixed.spec == stacked.spec == spec
        assert (mixed.mix.noisy, mixed.mix.masks_on) == (0.2, "clean")
        assert (stacked.mix.noisy, stacked.mix.masks_on) == (1.0, "all")
