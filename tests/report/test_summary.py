"""The comparison of experiments."""

import dataclasses
import json
import statistics

import pytest

from adaptkit.kaldi.tables import write_table
from adaptkit.records import DecodeRecord, RunRecord
from adaptkit.report import html, summary
from adaptkit.report.notes import list_notes, list_warnings
from adaptkit.report.runs import load
from adaptkit.report.sections import rate_cells
from adaptkit.tables import escape_markdown
from tests.fixtures.runs import HYPS, REFS


def rows_of(folders, **options):
    """The experiments as json data, by name."""
    return {row["name"]: row for row in json.loads(summary.as_json(load(folders, **options)))}


def test_json_holds_exactly_the_promised_keys(experiments):
    row = rows_of(experiments)["none"]
    params = ["params_trainable", "params_per_task", "params_base"]
    rates = ["wer", "wer_low", "wer_high", "wer_sd", "wer_by_seed", "cer", "by_task"]
    costs = ["train_seconds", "epoch_seconds", "peak_mb", "rtf"]
    who, compared = ["name", "kind", "tasks", "seeds"], ["unimproved", "minus", "by_group"]
    assert list(row) == [*who, *params, *rates, *costs, *compared]


def test_speakers_that_kept_their_start_are_named(experiments):
    path = experiments[1] / "run.json"
    dataclasses.replace(RunRecord.read(path), unimproved=["ann"]).write(path)
    comparison, expected = load(experiments), "residual64: 1 of 2 speakers kept the weights of their start"
    assert rows_of(experiments)["residual64"]["unimproved"] == ["ann"]
    for render in (summary.as_table, summary.as_markdown, html.render_page):
        assert f"{expected}, as no validation was better: ann." in render(comparison)


def test_names_of_speakers_are_escaped_in_the_notes_of_markdown(experiments):
    path = experiments[1] / "run.json"
    dataclasses.replace(RunRecord.read(path), unimproved=["bob & <co>"]).write(path)
    text = summary.as_markdown(load(experiments))
    assert f"as no validation was better: {escape_markdown('bob & <co>')}." in text
    assert "better: bob & <co>." not in text


def test_intervals_over_few_speakers_and_the_lowest_p_are_warned_of(experiments):
    comparison, few = load(experiments, minus=["none"]), "Intervals over 2 speakers are unreliable"
    difference = comparison.differences[1][0]
    comparison.differences[1][0] = dataclasses.replace(difference, p_value=2 / 1001)
    lowest = "the lowest that 1,000 resamples can show: residual64 minus none."
    for render in (summary.as_table, summary.as_markdown, html.render_page):
        assert few in render(comparison)
        assert lowest in render(comparison)
    comparison.differences[1][0] = dataclasses.replace(difference, p_value=4 / 1001)
    assert "residual64 minus none" not in "".join(list_warnings(comparison))


def test_two_speakers_cannot_differ_significantly_and_the_warning_says_so(experiments):
    comparison = load(experiments)
    cell = rate_cells(comparison, comparison.results[1])[0]
    assert cell == ("-37.50", "-50.00 to -25.00")
    assert "have 10 or more. With 2 speakers, p cannot be below 0.500." in summary.as_table(comparison)


@pytest.mark.parametrize(("number", "lowest"), [(1, "1 utterance, p cannot be below 1.000."), (10, None)])
def test_a_set_of_one_speaker_is_warned_of(write_run, tmp_path, monkeypatch, number, lowest):
    refs = dict(list(REFS.items())[:number])
    write_table(tmp_path / "data/text", refs)
    write_table(tmp_path / "data/utt2spk", dict.fromkeys(refs, "ann"))
    folders = [write_run("none", dict.fromkeys(refs, "a b c x")), write_run("residual64", refs)]
    warnings = "\n".join(list_warnings(load(folders)))
    assert "a single speaker say nothing of other speakers: have 10 or more speakers." in warnings
    assert ("cannot be below" in warnings) == (lowest is not None)
    assert (lowest or "p is at most 0.002") in warnings


def test_groups_of_few_speakers_are_warned_of(write_run, tmp_path):
    write_table(tmp_path / "data/utt2group", {u: u[:3] for u in REFS})
    folders = [write_run(name, hyps) for name, hyps in HYPS.items()]
    for render in (summary.as_table, summary.as_markdown, html.render_page):
        assert "other speakers: ann (1 speaker), bob (1 speaker)." in render(load(folders))


def test_notes_on_several_seeds_count_seeds_and_not_speakers_twice(seeded):
    selection = {"lr": {"0.001": 2}, "epochs": {"2": 2}}
    for folder, kept in zip(seeded[1:3], (["ann"], []), strict=True):
        path = folder / "run.json"
        dataclasses.replace(RunRecord.read(path), selection=selection, unimproved=kept).write(path)
    assert list_notes(load(seeded).results) == [
        "residual64: over 2 seeds, validation chose a learning rate of 0.001 (4 times), and 2 epochs for "
        "all.",
        "residual64: 1 of 2 speakers kept the weights of their start with one or more of the seeds, as no "
        "validation was better: ann (1 of 2 seeds).",
    ]


def test_a_shared_adapter_names_how_many_seeds_kept_its_start(seeded):
    for folder, kept in zip(seeded[1:3], (["shared"], []), strict=True):
        path = folder / "run.json"
        dataclasses.replace(RunRecord.read(path), tasks=["shared"], unimproved=kept).write(path)
    expected = "residual64: kept the weights of its start with 1 of 2 seeds, as no validation was better."
    assert list_notes(load(seeded).results) == [expected]


def test_what_trials_chose_is_reported(experiments):
    path = experiments[1] / "run.json"
    selection = {"lr": {"0.003": 1, "0.001": 2}, "epochs": {"0": 1, "8": 2, "10": 1}}
    dataclasses.replace(RunRecord.read(path), selection=selection).write(path)
    chosen = "residual64: validation chose a learning rate of 0.001 (2 speakers), 0.003 (1 speaker), and 0 to"
    for render in (summary.as_table, summary.as_markdown, html.render_page):
        assert f"{chosen} 10 epochs, 8 in the median." in render(load(experiments))
    dataclasses.replace(RunRecord.read(path), selection={"lr": {"0.003": 3}, "epochs": {"2": 3}}).write(path)
    said = "validation chose a learning rate of 0.003 (3 speakers), and 2 epochs for all."
    assert said in summary.as_markdown(load(experiments))


def test_a_shared_adapter_that_kept_its_start_is_named_as_one(experiments):
    path = experiments[1] / "run.json"
    dataclasses.replace(RunRecord.read(path), tasks=["shared"], unimproved=["shared"]).write(path)
    expected = "residual64: kept the weights of its start, as no validation was better."
    assert list_notes(load(experiments).results) == [expected]


def test_figures_are_those_worked_by_hand(experiments):
    row = rows_of(experiments)["residual64"]
    assert (row["wer"], row["by_task"]) == (12.5, {"ann": 25.0, "bob & <co>": 0.0})
    assert (row["params_trainable"], row["train_seconds"], row["rtf"]) == (5000, 125.0, 0.25)
    assert (row["seeds"], row["wer_sd"]) == ([0], None)


def test_seeds_are_pooled(seeded):
    row = rows_of(seeded)["residual64"]  # 12.5 % and 0 %: 5 errors in 80 words
    assert (row["wer"], row["wer_by_seed"]) == (6.25, {"1": 12.5, "2": 0.0})
    assert row["by_task"] == {"ann": 12.5, "bob & <co>": 0.0}
    assert row["wer_sd"] == round(statistics.stdev([12.5, 0.0]), 2)


def test_costs_are_means_over_seeds_and_memory_the_highest(seeded):
    row = rows_of(seeded)["residual64"]
    assert row["epoch_seconds"] == round((125 / 5 + 125 / 10) / 2, 1)
    assert (row["train_seconds"], row["peak_mb"]) == (125.0, 902.0)


def test_difference_of_unequal_seeds_is_that_of_their_rates(seeded):
    rows = rows_of(seeded, minus=["residual64"])
    assert rows["hra"]["minus"][0]["points"] == 12.5 - 6.25
    assert rows["none"]["minus"][0]["points"] == 50 - 6.25
    assert rows["residual64"]["minus"] == []


def test_difference_from_the_baseline_is_paired(experiments):
    (difference,) = rows_of(experiments)["residual64"]["minus"]
    assert difference["points"] == -37.5
    assert difference["interval"]["low"] >= -50  # bob's gain, which one resample in four draws alone
    assert difference["p_value"] == 0.5  # two speakers agree by chance in half of all cases


def test_each_baseline_has_its_column(seeded):
    head, *rows = summary.as_cells(load(seeded, minus=["none", "hra"]))
    columns = [index for index, (title, _) in enumerate(head) if title.startswith("minus ")]
    assert [head[index][0] for index in columns] == ["minus none", "minus hra"]
    assert [[row[index][0] for index in columns] for row in rows] == [
        ["–", "+37.50"],
        ["-43.75", "-6.25"],
        ["-37.50", "–"],
    ]


def test_table_is_aligned_and_marks_the_difference(write_run, tmp_path):
    write_table(tmp_path / "data/utt2spk", dict.fromkeys(REFS, "ann"))  # ten utterances changed
    lines = summary.as_table(load([write_run(name, hyps) for name, hyps in HYPS.items()])).splitlines()
    assert len({len(line) for line in lines[:3]}) == 1
    assert lines[2].startswith("residual64 (residual)")
    assert "-37.50* (" in lines[2]
    assert "5,000 (5.00 %)" in lines[2]


def test_table_counts_seeds_and_tells_their_deviation(seeded):
    head, none, residual, hra = summary.as_cells(load(seeded))
    assert [row[2] for row in (head, none, residual, hra)] == [
        ("seeds", "sd of WER"),
        ("–", ""),
        ("2", "8.84"),
        ("1", ""),
    ]


def test_markdown_has_experiments_speakers_and_commands(seeded):
    text = summary.as_markdown(load(seeded))
    assert "| residual64 (residual) | 6.25 (" in text
    assert "| bob &amp; &lt;co&gt; | 50.00 | 0.00 | 0.00 |" in text
    assert "- `residual64` (seeds 1, 2): `adaptkit train conf/residual64.yaml --seed 1`\n" in text
    assert text.endswith("\nVersions: torch 2.11.0, adaptkit commit unknown, recipe commit unknown.")


def test_versions_that_differ_name_their_experiments(seeded):
    record = RunRecord.read(seeded[3] / "run.json")
    dataclasses.replace(record, recipe_commit="5d1").write(seeded[3] / "run.json")
    assert summary.list_versions(load(seeded).results) == [
        "Versions of none, residual64: torch 2.11.0, adaptkit commit unknown, recipe commit unknown.",
        "Versions of hra: torch 2.11.0, adaptkit commit unknown, recipe commit 5d1.",
    ]


def test_experiments_decoded_by_different_searches_are_named(experiments):
    assert "Decoded differently" not in summary.as_table(load(experiments))
    path = experiments[1] / "decode_test/run.json"
    beam = dataclasses.replace(
        DecodeRecord.read(path), search={"kind": "beam", "beam_size": 5}, route={"method": "shared"}
    )
    beam.write(path)
    for shown in (summary.as_table, summary.as_markdown):
        found = shown(load(experiments)).replace("\\_", "_")
        assert "Decoded differently: none by greedy search; residual64 by beam search, beam_size 5." in found
