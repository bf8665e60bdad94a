"""Some inputs of every surface; `make fuzz N=20000` tries as many as asked."""

import logging

import pytest

from tests.fuzz import surfaces, world
from tests.fuzz.outcome import Kind, Silent, classify

PER_SURFACE = {"base_files": 30, "runs": 20}
USUAL = 50


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return world.make(tmp_path_factory.mktemp("world"))


@pytest.fixture(autouse=True)
def _quiet():
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", surfaces.SURFACES)
def test_no_input_ends_in_a_traceback_or_in_silence(name, made):
    outcomes = [surfaces.SURFACES[name](made, seed) for seed in range(PER_SURFACE.get(name, USUAL))]
    assert [(o.kind.value, o.what, o.detail) for o in outcomes if o.kind.is_fault] == []
    assert {o.kind for o in outcomes} == {Kind.ERROR, Kind.RIGHT}


@pytest.mark.parametrize("name", ["audio", "settings"])
def test_a_number_makes_the_same_input_again(name, made):
    first, again = (surfaces.SURFACES[name](made, 3) for _ in range(2))
    assert first == again


def test_outcomes_are_told_apart():
    def fail():
        raise KeyError("a")

    def pass_wrongly():
        raise Silent("wrong")

    kinds = [classify("x", run).kind for run in (fail, pass_wrongly, lambda: None)]
    assert kinds == [Kind.TRACEBACK, Kind.SILENT, Kind.RIGHT]
