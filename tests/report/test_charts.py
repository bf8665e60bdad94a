"""The figures of the html page."""

import dataclasses
import re

import pytest
from matplotlib.figure import Figure

from adaptkit.records import RunRecord
from adaptkit.report import charts, sizes
from adaptkit.report import html as page
from adaptkit.report.runs import load
from adaptkit.scoring.wer import score
from tests.fixtures.runs import HYPS


@pytest.fixture
def comparison(experiments):
    return load(experiments)


@pytest.fixture
def results(comparison):
    return comparison.results


@pytest.mark.parametrize("draw", [charts.draw_speakers, charts.draw_training, sizes.draw_sizes])
def test_figure_takes_every_colour_from_the_page(draw, comparison):
    svg = draw(comparison.results)
    defined = set(re.findall(r"(--[\w-]+):", page.render_page(comparison)))
    assert set(re.findall(r"var\((--[\w-]+)\)", svg)) <= defined
    assert not re.findall(r"(?:fill|stroke): #", svg)


def test_figure_of_speakers_has_a_bar_each_and_one_for_all(results):
    svg = charts.draw_speakers(results)
    for colour in (0, 1):
        assert len(re.findall(rf'style="fill: var\(--series-{colour}\); stroke', svg)) == 3


def test_rows_of_speakers_share_an_axis_that_holds_the_highest_bar(results):
    refs = {f"speaker{number}": "a b c d" for number in range(6)}
    own = score(refs, {**refs, "speaker5": ""}, speakers={name: name for name in refs})
    svg = charts.draw_speakers([dataclasses.replace(results[1], score=own)] * 30)  # in two rows
    assert svg.count(">100</text>") == 2


def test_colours_start_anew_and_hollow_where_experiments_are_many(results):
    looks = charts.choose_looks([results[0], *[results[1]] * (charts.NUM_COLOURS + 1)])
    assert [look.colour for look in looks] == [0, *range(1, charts.NUM_COLOURS + 1), 1]
    assert [look.fill for look in looks] == [*["filled"] * (charts.NUM_COLOURS + 1), "hollow"]


def test_every_run_has_its_curve(seeded):
    svg = charts.draw_training(load(seeded).results)
    assert svg.count("stroke: var(--series-1); stroke-width: 1.4") == 2 * 2  # runs, loss and validation


def test_names_of_one_point_stand_on_either_side(seeded):
    none, _, residual, hra = seeded  # the last two recognised the same
    record = RunRecord.read(hra / "run.json")
    dataclasses.replace(record, params_per_task=2500).write(hra / "run.json")
    svg = sizes.draw_sizes(load([none, residual, hra]).results)
    assert dict(re.findall(r"text-anchor: (\w+)[^>]*>(residual64|hra)<", svg)).keys() == {"start", "end"}


def test_base_far_above_the_adapters_is_told_and_not_drawn(seeded):
    svg = sizes.draw_sizes(load(seeded[:2]).results)  # 50 % and 0 %
    assert "none: 50.00, above this range" in svg
    assert "var(--series-0)" not in svg


def test_parameters_that_all_tasks_share_stand_at_zero(seeded):
    record = RunRecord.read(seeded[3] / "run.json")
    dataclasses.replace(record, params_per_task=0).write(seeded[3] / "run.json")
    labels = re.findall(r">([\dk.]+)</text>", sizes.draw_sizes(load(seeded).results))
    assert labels[0] == "0"


def test_base_alone_stands_at_zero_with_its_name(write_run):
    near = {**HYPS["none"], "ann-1": "a b c"}  # one deletion less of 40 words
    svg = sizes.draw_sizes(load([write_run("none", HYPS["none"]), write_run("residual64", near)]).results)
    assert re.findall(r">([\dk.]+)</text>", svg)[:2] == ["0", "2.5k"]
    assert ">none</text>" in svg


def test_long_names_are_shortened_in_figures_and_stay_within(seeded):
    record = RunRecord.read(seeded[3] / "run.json")
    dataclasses.replace(record, name="hra_" + 60 * "x").write(seeded[3] / "run.json")
    svg = sizes.draw_sizes(load(seeded).results)
    assert ">hra_xxxxxx…xxxxxxxxxx</text>" in svg


@pytest.mark.parametrize(("least", "scale"), [(300, "linear"), (200, "log")])
def test_axis_of_sizes_is_logarithmic_beyond_ten_times(least, scale):
    ax = Figure().subplots()
    sizes._scale_sizes(ax, [least, 2500])
    assert ax.get_xscale() == scale
