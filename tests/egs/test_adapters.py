"""The sizes of adapters that a corpus compares, against what their yaml says of them."""

import re
from pathlib import Path

import pytest

from adaptkit import config, experiment
from adaptkit.adapters import api
from adaptkit.adapters.per_task import numbers_per_task
from adaptkit.base import create

ROOT = Path(__file__).parents[2]
MODELS = {"voices": "conformer_12x64", "fsdd": "conformer_8x96"}
FOLDERS = [ROOT / "egs" / corpus / "conf/adapters" for corpus in MODELS]
FILES = [path for folder in FOLDERS for path in sorted(folder.glob("*.yaml"))]
CONFIGS = {"voices": "voices.yaml", "fsdd": "compare.yaml"}

pytestmark = pytest.mark.espnet


@pytest.fixture(scope="module")
def models():
    """The base model of each corpus with random weights; the number of characters is all that may differ."""
    return {corpus: create.untrained(ROOT / f"conf/base/{name}.yaml", 30) for corpus, name in MODELS.items()}


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parents[2].name}-{path.stem}")
def test_a_yaml_of_adapters_tells_how_many_numbers_a_speaker_takes(path, models):
    corpus = path.parents[2].name
    settings = experiment.load(path.parents[1] / CONFIGS[corpus], adapter=path)
    stack = api.build(settings.adapters, models[corpus].sites, ["one", "two"], seed=0)
    said = re.search(r": ([\d,]+)(?: numbers)? a speaker", path.read_text())
    if said:
        assert numbers_per_task(stack) == int(said.group(1).replace(",", ""))
    else:
        assert stack.changes_weights  # full and bitfit: as many as the base has


@pytest.mark.parametrize("corpus", MODELS)
def test_hra_takes_an_eighth_of_what_residual_takes(corpus, models):
    numbers = {}
    for name in ("hra", "residual"):
        content = config.read_yaml(ROOT / "egs" / corpus / f"conf/adapters/{name}.yaml")
        entries = [api.read_config(entry) for entry in content["adapters"]]
        stack = api.build(entries, models[corpus].sites, ["one"], seed=0)
        numbers[name] = numbers_per_task(stack)
    assert 8 <= numbers["residual"] / numbers["hra"] < 8.2
