"""The command `adaptkit report`."""

import json

import pytest

from adaptkit.errors import ScoringError


@pytest.fixture
def report(adaptkit):
    """Run `adaptkit report`."""
    return lambda *words: adaptkit("report", *words)


def test_report_prints_a_plain_table_where_there_is_no_terminal(report, experiments):
    lines = report(*experiments).stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["experiment", "none", "residual64"]


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
