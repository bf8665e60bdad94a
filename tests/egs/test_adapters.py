"""The sizes of the adapters that a corpus compares, against what its yaml states."""

import re
from pathlib import Path

import pytest

from adaptkit import config, experiment
from adaptkit.adapters import api
from adaptkit.base import create

ROOT = Path(__file__).parents[2]
MODELS = {
    "voices": "conf/base/conformer_12x64.yaml",
    "fsdd": "conf/base/conformer_8x96.yaml",
    "speechocean762": "egs/speechocean762/conf/conformer_8x96_40bins.yaml",
}
ALIKE = ("voices", "fsdd")
YAMLS = {corpus: ROOT / "egs" / corpus / "conf/compare.yaml" for corpus in MODELS}
ROWS = [(corpus, row) for corpus, path in YAMLS.items() for row in config.read_yaml(path)["compare"]]


@pytest.fixture(scope="module")
def models():
    """The base model of each corpus with random weights; the number of characters is all that may differ."""
    return {corpus: create.untrained(ROOT / path, 30) for corpus, path in MODELS.items()}


def build(corpus, row, models):
    settings = experiment.load(YAMLS[corpus], adapter=row)
    return api.build(settings.adapters, models[corpus].sites, ["one", "two"], seed=0)


def comment_of(corpus, row):
    """The comment above a row of `compare:`."""
    return re.search(rf"^  # (.*)\n  {row}:", YAMLS[corpus].read_text(), flags=re.MULTILINE)[1]


@pytest.mark.parametrize(("corpus", "row"), ROWS)
def test_a_row_states_its_parameters_per_speaker(corpus, row, models):
    stack = build(corpus, row, models)
    stated = re.match(r"([\d,]+) parameters per speaker", comment_of(corpus, row))
    if stated:
        assert stack.num_per_task == int(stated[1].replace(",", ""))
    else:
        assert stack.changes_weights  # full and bitfit: as many as the base has


@pytest.mark.parametrize("corpus", ALIKE)
def test_hra_takes_an_eighth_of_what_residual_takes(corpus, models):
    counts = {row: build(corpus, row, models).num_per_task for row in ("hra", "residual")}
    assert 8 <= counts["residual"] / counts["hra"] < 8.2


@pytest.mark.parametrize("corpus", ALIKE)
def test_every_corpus_compares_the_same_adapters(corpus):
    assert [row for name, row in ROWS if name == corpus] == [row for name, row in ROWS if name == "voices"]
