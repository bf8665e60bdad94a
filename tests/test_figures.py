"""README.md and the guides repeat figures of the results, and never others."""

import re
from pathlib import Path

import pytest

from docs.theme import tables

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SOURCES = [ROOT / "RESULTS.md", *ROOT.glob("egs/*/RESULTS.md")]
SOURCES += [ROOT / f"docs/{page}.md" for page in ("measured", "routing", "scale", "search", "speed")]
RESULTS = "\n".join(path.read_text(encoding="utf-8") for path in SOURCES)
FIGURE = re.compile(r"\d[\d,]*\.\d+|\d{1,3}(?:,\d{3})+")


def figures(text: str) -> set[str]:
    return set(FIGURE.findall(text))


@pytest.mark.parametrize("page", tables.pages(), ids=lambda page: page.name)
def test_tables_with_a_source_are_as_the_source_has_them(page):
    text = page.read_text(encoding="utf-8")
    assert tables.fill(text) == text  # `make readme` fills them


def test_a_table_is_refilled_from_its_source_and_nothing_else_changes():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    changed = text.replace("11.14 (", "10.14 (")
    assert changed != text == tables.fill(changed)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("columns: [none", "columns: [nonesuch"),
        ("{none: none", "{nonesuch: none"),
        ("of: egs/mini", "of: egs/an4"),
    ],
)
def test_a_table_that_its_source_lacks_is_refused(old, new):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert old in text
    with pytest.raises(ValueError, match="no table with the columns"):
        tables.fill(text.replace(old, new))


def test_figures_in_the_text_are_in_the_results():
    prose = "\n".join(line for line in README.splitlines() if not line.startswith("|"))
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
    for part in (r"```.*?```", r"`[^`]*`", r"(?:arXiv:|doi\s)\S+", r"wav2vec 2\.0"):
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
