"""README.md and the guides repeat figures of the results, and never others."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SOURCES = [ROOT / "RESULTS.md", *ROOT.glob("egs/*/RESULTS.md")]
SOURCES += [ROOT / f"docs/{page}.md" for page in ("measured", "routing", "scale", "search", "speed")]
RESULTS = "\n".join(path.read_text(encoding="utf-8") for path in SOURCES)
FIGURE = re.compile(r"\d[\d,]*\.\d+|\d{1,3}(?:,\d{3})+")


def rows_of(text: str) -> list[list[str]]:
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("|") and not line.startswith("|:") and not line.startswith("|-")
    ]


def figures(text: str) -> set[str]:
    return set(FIGURE.findall(text))


def name_of(cell: str) -> str:
    """The experiment of a row: 'hra_ffn (hra)' without what explains it, by its name in the results."""
    return cell.strip("`").split(" (")[0].replace("egs/voices, table", "per-speaker weights")


def measured_rows() -> list[list[str]]:
    """Those of the tables whose columns are aligned, which are the measured ones."""
    tables = re.findall(r"^\|:-.*\n((?:\|.*\n)+)", README, re.MULTILINE)
    return [row for table in tables for row in rows_of(table)]


@pytest.mark.parametrize("row", measured_rows(), ids=lambda row: f"{row[0]} {row[1]}")
def test_a_row_of_figures_is_that_of_one_table_in_the_results(row):
    wanted = figures(" ".join(row[1:]))
    rows = [other for other in rows_of(RESULTS) if name_of(other[0]) == name_of(row[0])]
    assert any(wanted <= figures(" ".join(other[1:])) for other in rows), f"no table has the row {row}"


def test_figures_in_the_text_are_in_the_results():
    text = README.split("## References")[0]
    prose = "\n".join(line for line in text.splitlines() if not line.startswith("|"))
    intervals = re.findall(
        r"-?\d+\.\d+ points|\d+\.\d+ \(|\(-?\d+\.\d+ to -?\d+\.\d+\)|\d{1,3},\d{3}(?![\d,])", prose
    )
    assert intervals
    for text in intervals:
        for figure in figures(text):
            assert figure in figures(RESULTS), f"no page of results has {text}"


GUIDES = (
    *("choosing", "coming_from", "domains", "many_speakers", "noise", "one_speaker", "trouble"),
    "what_did_not_work",
)


@pytest.mark.parametrize("name", GUIDES)
def test_figures_of_a_guide_are_those_of_the_results(name):
    text = (ROOT / f"docs/{name}.md").read_text()
    for part in (r"```.*?```", r"`[^`]*`", r"arXiv:\S+", r"wav2vec 2\.0"):
        text = re.sub(part, "", text, flags=re.DOTALL)
    assert figures(text) - figures(RESULTS) == set()


def test_figures_of_the_claims_are_on_the_pages_that_they_link_to():
    wrong = []
    for block in re.split(r"\n\n|\n(?=- )", (ROOT / "RESULTS.md").read_text(encoding="utf-8")):
        links = re.findall(r"\]\(([^)#:]+)[)#]", block)
        linked = figures(" ".join((ROOT / link).read_text(encoding="utf-8") for link in links))
        text = re.sub(r"\]\([^)]*\)|arXiv:\S+", "", block)
        wrong += [f"{figure} in {block[:60]!r}" for figure in sorted(figures(text) - linked)]
    assert wrong == []
