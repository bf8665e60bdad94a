"""The html page."""

import dataclasses
import re
import shutil
import xml.etree.ElementTree as ElementTree

import pytest

from adaptkit.characters import visible
from adaptkit.kaldi.tables import write_table
from adaptkit.records import RunRecord
from adaptkit.report import html as page
from adaptkit.report.runs import Comparison, load
from adaptkit.scoring import files as score_files
from tests.fixtures.runs import ANN_WRONG, HYPS, REFS


def parse(html):
    """Parse a page, which is well-formed XML after its first line."""
    return ElementTree.fromstring(html.removeprefix("<!doctype html>"))


@pytest.fixture
def comparison(experiments):
    return load(experiments)


@pytest.fixture
def results(comparison):
    return comparison.results


def test_page_needs_nothing_from_outside(comparison):
    html = page.render_page(comparison)
    elements = list(parse(html).iter())
    links = [value for e in elements for name, value in e.items() if name.endswith(("src", "href"))]
    assert all(link.startswith("#") for link in links)
    assert not {"script", "link", "img", "iframe"} & {element.tag for element in elements}
    assert set(re.findall(r"url\(#([^)]*)", html)) <= {element.get("id") for element in elements}
    assert "@import" not in html


def test_names_are_escaped(comparison):
    html = page.render_page(comparison)
    assert "<co>" not in html
    assert html.count("bob &amp; &lt;co&gt;") == 2  # below the bars and in the table


def test_everything_that_runs_bring_is_escaped(experiments):
    path = experiments[1] / "run.json"
    hostile = '{{ 7 * 7 }}</code><b title="x">\'$title\x1b'
    record = dataclasses.replace(RunRecord.read(path), name=hostile, command=hostile, unimproved=[hostile])
    dataclasses.replace(record, versions={hostile: hostile}).write(path)
    html = page.render_page(load(experiments))
    texts = list(parse(html).itertext())
    shown = visible(hostile)
    assert {shown} <= set(texts)  # its names in the table and legend, its command
    assert f"{shown}: 1 of 2 speakers kept" in "".join(texts)
    assert f"Versions of {shown}: {shown} {shown}," in "".join(texts)
    assert "<b title" not in html


def test_names_in_any_script_draw_without_a_warning(write_run, tmp_path):
    speakers = ["日本語", "می\u200cخواهم", "<i>|`$x$`", "all", "\U0001f642"]
    write_table(tmp_path / "data/utt2spk", {u: speakers[n % 5] for n, u in enumerate(sorted(REFS))})
    comparison = load([write_run("none", HYPS["none"]), write_run("residual64", ANN_WRONG)])
    html = page.render_page(comparison)
    assert parse(html) is not None
    assert html.count("日本語") >= 2
    assert "<i>|" not in html


def test_page_shows_three_figures_and_three_tables(comparison):
    html = page.render_page(comparison)
    assert (html.count("<svg "), html.count("<table>")) == (3, 3)


def test_base_alone_has_a_page_without_curves(results):
    html = page.render_page(Comparison(results[:1], results[:1]))
    assert (html.count("<svg "), html.count("<h2>Training")) == (1, 0)


def test_page_leads_with_the_best_experiment(comparison):
    cards = re.search(r'<div class="cards">.*', page.render_page(comparison)).group()
    assert re.findall(r"<b>([^<]*)", cards) == ["12.50 %", "−75 %", "5 k", "2.5 k"]


def test_page_is_the_same_each_time(comparison):
    assert page.render_page(comparison) == page.render_page(comparison)


def test_perfect_experiments_can_be_drawn(experiments, tmp_path):
    for folder in experiments:
        shutil.copy(tmp_path / "data/text", folder / "decode_test/text")
        score_files.write(
            score_files.score_files(tmp_path / "data", folder / "decode_test"), folder / "decode_test"
        )
    cards = re.search(r'<div class="cards">.*', page.render_page(load(experiments))).group()
    assert re.findall(r"<b>([^<]*)", cards) == ["0.00 %"]
