"""Searches by name, by path and written out; what no search can be."""

import pytest

from adaptkit import config, experiment
from adaptkit.errors import ConfigError
from adaptkit.search_options import Beam, Greedy, Transducer, change_search, read_search

EXPERIMENT = {"name": "tiny", "base": {"dir": "exp/base"}}


def test_a_search_is_read_by_name_path_and_as_a_mapping(tmp_path):
    config.write_yaml(tmp_path / "own.yaml", {"kind": "beam", "beam_size": 7})
    assert read_search("greedy") == Greedy()
    assert read_search(tmp_path / "own.yaml") == Beam(beam_size=7)
    assert read_search({"kind": "transducer", "beam_size": 3}) == Transducer(beam_size=3)
    assert read_search("auto") == "auto"


def test_options_are_changed_by_words():
    assert change_search(Beam(), ["beam_size=3", "lm=exp/lm"]) == Beam(beam_size=3, lm="exp/lm")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"kind": "beam", "beam_size": 0}, "beam_size: Input should be greater than 0"),
        ({"kind": "beam", "beam_size": 10**6}, "beam_size: Input should be less than or equal to 1000"),
        ({"kind": "beam", "ctc_weight": 1.5}, "ctc_weight: Input should be less than or equal to 1"),
        ({"kind": "beam", "maxlenratio": -0.5}, "maxlenratio: expected 0 or more, or a number of tokens"),
        ({"kind": "beam", "minlenratio": 2.0}, "minlenratio 2 is above maxlenratio 0, at most one token"),
        ({"kind": "beam", "maxlenratio": -3, "minlenratio": -4}, "minlenratio -4 is above maxlenratio -3"),
        ({"kind": "beam", "penalty": 0.1}, "penalty: unknown key"),
        ({"kind": "transducer", "search_type": "tsdd"}, "search_type: .*did you mean 'tsd'"),
        ({"kind": "transducer", "beam_size": 1, "lm_weight": 0.3}, "lm_weight 0.3 with a beam of 1"),
        ({"kind": "greedy", "nbest": 3}, "nbest: unknown key"),
        ({"kind": "beem"}, "no search is called 'beem'; did you mean 'beam'"),
        ({"beam_size": 3}, "kind: missing; one of greedy, beam, transducer"),
        ({"kind": ["beam"]}, "no search is called"),
    ],
)
def test_what_no_search_can_be_is_refused(content, message):
    with pytest.raises(ConfigError, match=f"(?s){message}"):
        read_search(content)


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match="'librispeach'.*did you mean 'librispeech'"):
        read_search("librispeach")


def test_an_experiment_names_its_search_or_writes_it_out(tmp_path):
    path = tmp_path / "own.yaml"
    for given, expected in (
        ({}, "auto"),
        ({"search": "auto"}, "auto"),
        ({"search": "aishell"}, Beam(ctc_weight=0.4)),
        ({"search": {"kind": "beam", "beam_size": 4}}, Beam(beam_size=4)),
    ):
        config.write_yaml(path, {**EXPERIMENT, **given})
        loaded = experiment.load(path)
        experiment.save(loaded, path)
        assert loaded.search == experiment.load(path).search == expected


def test_an_experiment_refuses_a_wrong_search_with_its_full_key(tmp_path):
    config.write_yaml(tmp_path / "own.yaml", {**EXPERIMENT, "search": {"kind": "beam", "beam_size": 0}})
    with pytest.raises(ConfigError, match="search.beam_size: Input should be greater than 0"):
        experiment.load(tmp_path / "own.yaml")
