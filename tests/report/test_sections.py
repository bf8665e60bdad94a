"""Speakers improved and harmed, and groups, in every form of a report."""

import json

import pytest

from adaptkit.errors import ScoringError
from adaptkit.kaldi.tables import write_table
from adaptkit.report import by_set, html, speakers, summary
from adaptkit.report.runs import load
from adaptkit.report.sections import list_group_sections, list_speaker_sections
from tests.fixtures.runs import ANN_WRONG, HYPS, REFS

GROUPS = {utt_id: "adult" if utt_id.startswith("ann") else "child" for utt_id in REFS}
WORSE_FOR_ANN = {**REFS, **{f"ann-{number}": "x" for number in range(5)}}  # 100 % and 0 %


@pytest.fixture
def harming(write_run):
    """The base alone at 50 %, and two seeds: one improves both speakers, the other harms ann."""
    return [
        write_run("none", HYPS["none"]),
        write_run("residual64", ANN_WRONG, seed=1),
        write_run("residual64", WORSE_FOR_ANN, seed=2),
    ]


@pytest.fixture
def grouped(write_run, tmp_path):
    """The runs of `harming`, with ann among the adults and bob among the children."""
    write_table(tmp_path / "data/utt2group", GROUPS)
    return [
        write_run("none", HYPS["none"]),
        write_run("residual64", ANN_WRONG, seed=1),
        write_run("residual64", WORSE_FOR_ANN, seed=2),
    ]


def test_speakers_harmed_are_a_mean_over_seeds(harming):
    (section,) = list_speaker_sections(load(harming))
    assert section.title == "Speakers compared with none"
    cells = dict(zip(*([cell for cell, _ in row] for row in section.rows), strict=True))
    assert (cells["improved"], cells["equal"], cells["harmed"]) == ("1.5", "0", "0.5")
    # five changes of one size each: half of all signs harm, and only all five alike are significant
    assert (cells["harmed by chance"], cells["either by chance"]) == ("1", "0.1")
    assert (cells["significantly improved"], cells["significantly harmed"]) == ("1.5", "0.5")


def test_speakers_most_harmed_over_all_seeds_are_named_with_their_words(harming):
    (section,) = list_speaker_sections(load(harming))
    assert section.notes[1:] == ["Most harmed by residual64: ann +12.50 (20 words, p = 0.031)."]


def test_share_harmed_stands_in_the_table_and_in_json(harming):
    head, none, residual = summary.as_cells(load(harming))
    column = head.index(("harmed vs none", "by chance"))
    assert (none[column], residual[column]) == (("–", ""), ("25.0 %", "50.0 %"))
    (difference,) = json.loads(summary.as_json(load(harming)))[1]["minus"]
    assert difference["share_harmed"] == 25.0
    assert difference["speakers"]["harmed"] == 0.5


def test_two_experiments_harm_each_other_as_they_improve(seeded):
    comparison = load(seeded, minus=["residual64", "hra"])
    one, other = comparison.differences[2][0].speakers, comparison.differences[1][1].speakers
    assert (one.improved, one.equal, one.harmed) == (other.harmed, other.equal, other.improved)


def test_set_of_one_speaker_counts_no_speakers(write_run, tmp_path):
    write_table(tmp_path / "data/utt2spk", dict.fromkeys(REFS, "ann"))
    comparison = load([write_run(name, hyps) for name, hyps in HYPS.items()])
    assert list_speaker_sections(comparison) == []
    assert "harmed" not in summary.as_markdown(comparison)


def test_groups_have_their_own_rates_and_differences(grouped):
    adult, child = list_group_sections(load(grouped))
    assert adult.title == "Group adult: speakers 1, utterances 5, words 20"
    assert [title for title, _ in adult.rows[0]] == ["experiment", "WER", "minus none", "CER"]
    assert [row[1][0] for row in adult.rows[1:]] == ["50.00", "62.50"]
    assert [row[1][0] for row in child.rows[1:]] == ["50.00", "0.00"]
    assert [section.rows[2][2][0] for section in (adult, child)] == ["+12.50", "-50.00"]


def test_json_has_the_rates_and_differences_of_each_group(grouped):
    row = json.loads(summary.as_json(load(grouped)))[1]
    assert {group: (own["wer"], own["minus"][0]["points"]) for group, own in row["by_group"].items()} == {
        "adult": (62.5, 12.5),
        "child": (0.0, -50.0),
    }
    assert {"wer_low", "cer_low", "cer_high"} <= row["by_group"]["adult"].keys()


def test_every_form_shows_groups_where_there_are_any(grouped, adaptkit):
    comparison = load(grouped)
    for render in (summary.as_table, summary.as_markdown, html.render_page):
        assert "Group child: speakers 1, utterances 5, words 20" in render(comparison)
    printed = adaptkit("report", *grouped).stdout
    assert "Group adult: speakers 1, utterances 5, words 20\nexperiment " in printed


def test_several_sets_have_a_table_for_each_group(grouped):
    (conditions,) = by_set.load(grouped, ["test"])
    assert "Group adult: speakers 1, utterances 5, words 20\nexperiment " in by_set.as_table([conditions])
    assert "### Speakers compared with none" in by_set.as_markdown([conditions])
    row = json.loads(by_set.as_json([conditions]))[1]
    assert row["by_group"]["adult"]["wer"] == 62.5


def test_runs_scored_with_and_without_groups_are_refused(write_run, tmp_path):
    folders = [write_run("none", HYPS["none"])]
    write_table(tmp_path / "data/utt2group", GROUPS)
    folders.append(write_run("residual64", ANN_WRONG))
    with pytest.raises(ScoringError, match="speakers or groups differ from those of"):
        load(folders)


def test_many_speakers_are_told_by_quantiles_and_the_worst(write_run, monkeypatch):
    monkeypatch.setattr(speakers, "MOST_SPEAKERS", 1)
    monkeypatch.setattr(speakers, "NUM_WORST", 1)
    comparison = load([write_run(name, hyps) for name, hyps in HYPS.items()])
    quantiles, worst = speakers.list_rate_sections(comparison.results)
    rows = [[figure for figure, _ in row] for row in quantiles.rows]
    assert (rows[0], rows[1], rows[-1]) == (
        ["of all speakers", "none", "residual64"],
        ["lowest", "50.00", "0.00"],
        ["highest", "50.00", "25.00"],
    )
    assert worst.title == "Highest WER with residual64"
    assert [[figure for figure, _ in row] for row in worst.rows[1:]] == [["ann", "50.00", "25.00"]]
    page = html.render_page(comparison)
    assert "speakers up to this WER" in page
    assert "bob &amp;" not in page
    assert "### Highest WER with residual64\n\n| speaker |" in summary.as_markdown(comparison)
