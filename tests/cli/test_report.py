"""The command `adaptkit report`."""

import dataclasses
import json

import pytest

from adaptkit.cli import report as command
from adaptkit.cli.options import ReportFormat
from adaptkit.errors import ScoringError
from adaptkit.kaldi.tables import write_table
from adaptkit.records import RunRecord
from tests.fixtures.runs import HYPS, REFS


@pytest.fixture
def report(adaptkit):
    """Run `adaptkit report`."""
    return lambda *words: adaptkit("report", *words)


def test_report_prints_a_plain_table_where_there_is_no_terminal(report, experiments):
    lines = report(*experiments).stdout.splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["experiment", "none", "residual64"]


def test_report_prints_json_for_machines(report, experiments):
    rows = json.loads(report(*experiments, "--format", "json").stdout)
    assert [row["wer"] for row in rows] == [50.0, 12.5]


@pytest.mark.parametrize(
    ("form", "start"), [("md", "## Results"), ("html", "<!doctype html>"), ("table", "exp")]
)
def test_report_writes_a_file_and_prints_nothing(report, form, start, experiments, tmp_path):
    done = report(*experiments, "--format", form, "--out", tmp_path / "out")
    assert done.stdout == ""
    assert (tmp_path / "out").read_text().startswith(start)


def test_report_compares_with_each_experiment_that_is_named(report, seeded):
    head = report(*seeded, "--minus", "none", "--minus", "hra").stdout.splitlines()[0]
    assert head.index("minus none") < head.index("minus hra")


def test_report_refuses_a_set_that_was_not_decoded(report, experiments):
    done = report(*experiments, "--test-set", "dev")
    assert isinstance(done.error, ScoringError)
    assert "only test" in done.stderr


def test_report_without_experiment_is_misuse(report):
    assert report().exit_code == 2


def test_report_on_a_terminal_shows_notes_and_groups_below_the_table(
    write_run, tmp_path, capsys, monkeypatch
):
    write_table(tmp_path / "data/utt2group", {u: "adult" if u.startswith("ann") else "child" for u in REFS})
    folders = [write_run(name, hyps) for name, hyps in HYPS.items()]
    record = RunRecord.read(folders[1] / "run.json")
    dataclasses.replace(record, unimproved=["ann"]).write(folders[1] / "run.json")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    command.report(folders, form=ReportFormat.table)
    printed = capsys.readouterr().out
    shown = ("1 of 2 speakers kept", "Group adult", "Group child")
    places = [printed.index(text) for text in shown]
    assert places == sorted(places)
