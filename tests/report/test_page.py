"""The html page."""

import re
import shutil
import xml.etree.ElementTree as ElementTree

import pytest

from adaptkit import charts, page, report, result


def parse(html):
    """Parse a page, which is well-formed XML after its first line."""
    return ElementTree.fromstring(html.removeprefix("<!doctype html>"))


@pytest.fixture
def outcomes(experiments):
    return report.load(experiments)


def test_page_needs_nothing_from_outside(outcomes):
    html = page.render(outcomes)
    elements = list(parse(html).iter())
    links = [value for e in elements for name, value in e.items() if name.endswith(("src", "href"))]
    assert all(link.startswith("#") for link in links)
    assert not {"script", "link", "img", "iframe"} & {element.tag for element in elements}
    assert set(re.findall(r"url\(#([^)]*)", html)) <= {element.get("id") for element in elements}
    assert "@import" not in html


def test_names_are_escaped(outcomes):
    html = page.render(outcomes)
    assert "<co>" not in html
    assert html.count("bob &amp; &lt;co&gt;") == 2  # below the bars and in the table


def test_page_shows_three_figures_and_two_tables(outcomes):
    html = page.render(outcomes)
    assert (html.count("<svg "), html.count("<table>")) == (3, 2)


def test_base_alone_has_a_page_without_curves(outcomes):
    html = page.render(outcomes[:1])
    assert (html.count("<svg "), html.count("<h2>Training")) == (1, 0)


def test_page_leads_with_the_best_experiment(outcomes):
    cards = re.search(r'<div class="cards">.*', page.render(outcomes)).group()
    assert re.findall(r"<b>([^<]*)", cards) == ["12.50 %", "−75 %", "5 k", "2.5 k"]


def test_page_is_the_same_each_time(outcomes):
    assert page.render(outcomes) == page.render(outcomes)


@pytest.mark.parametrize("draw", [charts.draw_speakers, charts.draw_training, charts.draw_sizes])
def test_figure_takes_every_colour_from_the_page(draw, outcomes):
    svg = draw(outcomes)
    defined = set(re.findall(r"(--[\w-]+):", page.render(outcomes)))
    assert set(re.findall(r"var\((--[\w-]+)\)", svg)) <= defined
    assert not re.findall(r"(?:fill|stroke): #", svg)


def test_figure_of_speakers_has_a_bar_each_and_one_for_all(outcomes):
    svg = charts.draw_speakers(outcomes)
    for colour in (0, 1):
        assert len(re.findall(rf'style="fill: var\(--series-{colour}\)"', svg)) == 3


def test_colours_start_anew_where_experiments_are_many(outcomes):
    many = [outcomes[0], *[outcomes[1]] * (charts.NUM_COLOURS + 1)]
    assert charts.colour_indices(many) == [0, *range(1, charts.NUM_COLOURS + 1), 1]


def test_perfect_experiments_can_be_drawn(experiments, tmp_path):
    for folder in experiments:
        shutil.copy(tmp_path / "data/text", folder / "decode_test/text")
        result.write(result.score_files(tmp_path / "data", folder / "decode_test"), folder / "decode_test")
    cards = re.search(r'<div class="cards">.*', page.render(report.load(experiments))).group()
    assert re.findall(r"<b>([^<]*)", cards) == ["0.00 %"]
