"""The catalogue of adapter types, which commands read without loading torch."""

import json
import sys
from pathlib import Path

import pytest

from adaptkit.adapters import describe
from adaptkit.adapters.catalog import CATALOG, AdapterInfo, available, digest_source, read_catalog

ROOT = Path(__file__).parents[2]


def test_the_catalogue_says_what_the_files_of_the_types_say():
    assert read_catalog() == {kind: describe.describe_adapter(kind) for kind in available()}


def test_the_stored_catalogue_is_of_the_present_files():
    stored = json.loads(CATALOG.read_text())
    assert {kind: entry["source"] for kind, entry in stored.items()} == {
        kind: digest_source(kind) for kind in available()
    }  # `python -m adaptkit.adapters.describe` writes it


def test_the_catalogue_is_read_without_torch(run_process):
    program = "import sys; from adaptkit.adapters import catalog; catalog.read_catalog(); print(*sys.modules)"
    loaded = run_process(sys.executable, "-c", program).stdout.split()
    assert "adaptkit.adapters.catalog" in loaded
    assert "torch" not in loaded


def test_every_type_says_how_many_parameters_it_has():
    lacking = [kind for kind, info in read_catalog().items() if not info.closed_form]
    assert lacking == []  # the class, or `build`, ends with 'Parameters: ' and the closed form


def test_the_page_on_types_has_a_row_of_each():
    infos = read_catalog().values()
    rows = [f"| `{i.kind}` | {i.title} | {i.closed_form} | {i.cited} |" for i in infos]
    section = (ROOT / "docs/choosing.md").read_text().split("\n## The types\n")[1].split("\n## ")[0]
    assert [line for line in section.splitlines() if line.startswith("| `")] == rows


@pytest.mark.parametrize(
    ("papers", "cited"),
    [
        ("Ada, Bo, A title, 2020,\narXiv:2001.00001.", "Ada et al. 2020, arXiv:2001.00001"),
        ("Ada et al., Of 1999 and now, 2020.", "Ada et al. 2020"),
        ("Ada, On a title, 2020", "Ada 2020"),
        ("", ""),
    ],
)
def test_a_paper_is_cited_by_author_year_and_number(papers, cited):
    info = AdapterInfo("x", "", papers, "", "", "", ())
    assert info.cited == cited
