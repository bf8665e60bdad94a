"""The published settings under conf/."""

import re
from pathlib import Path

import pytest
import torch

from adaptkit import config
from adaptkit.adapters import api
from adaptkit.adapters.catalog import available
from adaptkit.augment.policy import Policy, read_policy
from adaptkit.base import build
from adaptkit.search_options import Beam, Transducer, read_search

CONF = Path(__file__).parents[1] / "conf"
ADAPTERS = {path.stem: path for path in (CONF / "adapters").glob("*.yaml")}
SIZE = re.compile(r"([\d.]+) M parameters")
POLICIES = {path.stem: path for path in (CONF / "augment").glob("*.yaml")}


def kinds_of(path):
    """The types of the adapters in a yaml, whose options are checked."""
    return [api.read_config(entry).kind for entry in config.read_yaml(path)["adapters"]]


def test_settings_of_adapters_hold_nothing_else():
    assert [name for name, path in ADAPTERS.items() if set(config.read_yaml(path)) != {"adapters"}] == []


def test_settings_are_valid_and_named_after_the_types_in_them():
    kinds = {name: "_".join(kinds_of(path)) for name, path in ADAPTERS.items()}
    assert {name: kind for name, kind in kinds.items() if not f"{name}_".startswith(f"{kind}_")} == {}


def test_settings_of_adapters_name_a_paper():
    comments = {
        name: [line for line in path.read_text().splitlines() if line.startswith("#")]
        for name, path in ADAPTERS.items()
    }
    assert [name for name, lines in comments.items() if "arXiv:" not in " ".join(lines)] == []


def test_every_type_has_settings_of_its_name():
    assert set(available()) - set(ADAPTERS) == set()


@pytest.mark.slow
@pytest.mark.parametrize("path", [path for path in CONF.glob("base/*.yaml") if SIZE.search(path.read_text())])
def test_base_models_have_as_many_parameters_as_their_comments_say(path):
    tokens = [f"t{number}" for number in range(5000 if "12x512" in path.stem else 100)]
    with torch.device("meta"):
        model = build.build({**config.read_yaml(path), "token_list": tokens, "normalize": None})
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    said = SIZE.search(path.read_text())[1]
    assert f"{millions:.{len(said.partition('.')[2])}f}" == said


def test_policies_do_what_their_name_says():
    named = {name: read_policy(path) for name, path in POLICIES.items()}
    noisy, plain, stacked = ("mtr", "stacked", "mixed"), ("mtr", "plain"), "stacked"
    offenders = [
        name
        for name, policy in named.items()
        if (policy.noise is not None) != name.startswith(noisy)
        or (policy.spec is None) != name.startswith(plain)
        or (policy.mix.masks_on == "all") != name.startswith(stacked)
    ]
    assert offenders == []


def test_policies_name_their_paper():
    source = re.compile(r"arXiv:\d{4}\.\d{5}|Interspeech \d{4}")
    unnamed = [name for name, path in POLICIES.items() if not source.search(path.read_text())]
    assert [name for name in unnamed if read_policy(POLICIES[name]) != Policy()] == []


def test_policies_that_are_compared_differ_in_one_thing():
    named = {name: read_policy(path) for name, path in POLICIES.items()}
    noises = {policy.noise.model_dump_json() for policy in named.values() if policy.noise}
    specs = {"": named["libri_full_adapt"].spec, "_mild": named["adapt_mild"].spec}

    assert len(noises) == 1
    for suffix, spec in specs.items():
        mixed, stacked = (named[f"{name}{suffix}"] for name in ("mixed", "stacked"))
        assert mixed.spec == stacked.spec == spec
        assert (mixed.mix.noisy, mixed.mix.masks_on) == (0.2, "clean")
        assert (stacked.mix.noisy, stacked.mix.masks_on) == (1.0, "all")


def test_searches_are_valid_and_name_their_source():
    searches = {path.stem: path for path in (CONF / "decode").glob("*.yaml")}
    kinds = {name: read_search(name).kind for name in searches}
    source = re.compile(r"egs2/\w+/asr1/conf/\w+\.yaml|espnet2/bin/\w+\.py|arXiv:|, 20\d\d|ICML 2006")
    assert [name for name, path in searches.items() if not source.search(path.read_text())] == []
    assert {name for name, kind in kinds.items() if kind == "greedy"} == {"greedy"}
    assert {name for name, kind in kinds.items() if kind == "transducer"} == {"transducer"}


def test_the_search_of_a_name_is_what_auto_chooses():
    assert (read_search("beam"), read_search("transducer")) == (Beam(), Transducer())
