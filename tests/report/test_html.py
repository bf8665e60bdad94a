"""The html page."""

import dataclasses
import re
import shutil
import xml.etree.ElementTree as ElementTree

import pytest

from adaptkit.records import RunRecord
from adaptkit.report import charts
from adaptkit.report import html as page
from adaptkit.report.runs import Comparison, load
from adaptkit.scoring import files as score_files
from adaptkit.scoring.wer import score


def parse(html):
    """Parse a page, which is well-formed XML after its first line."""
    return ElementTree.fromstring(html.removeprefix("<!doctype html>"))


@pytest.fixture
def comparison(experiments):
    return load(experiments)


@pytest.fixture
def outcomes(comparison):
    return comparison.outcomes


def test_page_needs_nothing_from_outside(comparison):
    html = page.render(comparison)
    elements = list(parse(html).iter())
    links = [value for e in elements for name, value in e.items() if name.endswith(("src", "href"))]
    assert all(link.startswith("#") for link in links)
    assert not {"script", "link", "img", "iframe"} & {element.tag for element in elements}
    assert set(re.findall(r"url\(#([^)]*)", html)) <= {element.get("id") for element in elements}
    assert "@import" not in html


def test_names_are_escaped(comparison):
    html = page.render(comparison)
    assert "<co>" not in html
    assert html.count("bob &amp; &lt;co&gt;") == 2  # below the bars and in the table


def test_page_shows_three_figures_and_two_tables(comparison):
    html = page.render(comparison)
    assert (html.count("<svg "), html.count("<table>")) == (3, 2)


def test_base_alone_has_a_page_without_curves(outcomes):
    html = page.render(Comparison(outcomes[:1], outcomes[:1]))
    assert (html.count("<svg "), html.count("<h2>Training")) == (1, 0)


def test_page_leads_with_the_best_experiment(comparison):
    cards = re.search(r'<div class="cards">.*', page.render(comparison)).group()
    assert re.findall(r"<b>([^<]*)", cards) == ["12.50 %", "−75 %", "5 k", "2.5 k"]


def test_page_is_the_same_each_time(comparison):
    assert page.render(comparison) == page.render(comparison)


@pytest.mark.parametrize("draw", [charts.draw_speakers, charts.draw_training, charts.draw_sizes])
def test_figure_takes_every_colour_from_the_page(draw, comparison):
    svg = draw(comparison.outcomes)
    defined = set(re.findall(r"(--[\w-]+):", page.render(comparison)))
    assert set(re.findall(r"var\((--[\w-]+)\)", svg)) <= defined
    assert not re.findall(r"(?:fill|stroke): #", svg)


def test_figure_of_speakers_has_a_bar_each_and_one_for_all(outcomes):
    svg = charts.draw_speakers(outcomes)
    for colour in (0, 1):
        assert len(re.findall(rf'style="fill: var\(--series-{colour}\); stroke', svg)) == 3


def test_rows_of_speakers_share_an_axis_that_holds_the_highest_bar(outcomes):
    refs = {f"speaker{number}": "a b c d" for number in range(6)}
    own = score(refs, {**refs, "speaker5": ""}, speakers={name: name for name in refs})
    svg = charts.draw_speakers([dataclasses.replace(outcomes[1], score=own)] * 30)  # in two rows
    assert svg.count(">100</text>") == 2


def test_colours_start_anew_and_hollow_where_experiments_are_many(outcomes):
    looks = charts.choose_looks([outcomes[0], *[outcomes[1]] * (charts.NUM_COLOURS + 1)])
    assert [look.colour for look in looks] == [0, *range(1, charts.NUM_COLOURS + 1), 1]
    assert [look.fill for look in looks] == [*["filled"] * (charts.NUM_COLOURS + 1), "hollow"]


def test_every_run_has_its_curve(seeded):
    svg = charts.draw_training(load(seeded).outcomes)
    assert svg.count("stroke: var(--series-1); stroke-width: 1.4") == 2 * 2  # runs, loss and validation


def test_names_of_one_point_stand_on_either_side(seeded):
    none, _, residual, hra = seeded  # the last two recognised the same
    record = RunRecord.read(hra / "run.json")
    dataclasses.replace(record, params_per_task=2500).write(hra / "run.json")
    svg = charts.draw_sizes(load([none, residual, hra]).outcomes)
    assert dict(re.findall(r"text-anchor: (\w+)[^>]*>(residual64|hra)<", svg)).keys() == {"start", "end"}


def test_base_far_above_the_adapters_is_told_and_not_drawn(seeded):
    svg = charts.draw_sizes(load(seeded[:2]).outcomes)  # 50 % and 0 %
    assert "none: 50.00, above this range" in svg
    assert "var(--series-0)" not in svg


def test_parameters_that_all_tasks_share_stand_at_zero(seeded):
    record = RunRecord.read(seeded[3] / "run.json")
    dataclasses.replace(record, params_per_task=0).write(seeded[3] / "run.json")
    labels = re.findall(r">([\dk.]+)</text>", charts.draw_sizes(load(seeded).outcomes))
    assert labels[0] == "0"


def test_perfect_experiments_can_be_drawn(experiments, tmp_path):
    for folder in experiments:
        shutil.copy(tmp_path / "data/text", folder / "decode_test/text")
        score_files.write(
            score_files.score_files(tmp_path / "data", folder / "decode_test"), folder / "decode_test"
        )
    cards = re.search(r'<div class="cards">.*', page.render(load(experiments))).group()
    assert re.findall(r"<b>([^<]*)", cards) == ["0.00 %"]
