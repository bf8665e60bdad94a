"""The published settings under conf/."""

from pathlib import Path

import pytest

from adaptkit import config
from adaptkit.adapters import api

FOLDER = Path(__file__).parents[1] / "conf/adapters"


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
    assert set(api.available()) <= {path.stem for path in FOLDER.glob("*.yaml")}
