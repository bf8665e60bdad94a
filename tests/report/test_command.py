"""The command `adaptkit report`."""

import json

import pytest
import typer
from typer.testing import CliRunner

from adaptkit.cli import report
from adaptkit.errors import ScoringError

app = typer.Typer()
report.register(app)


def run(*words):
    return CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)


def test_report_prints_a_plain_table_where_there_is_no_terminal(experiments):
    lines = run(*experiments).stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["experiment", "none", "residual64"]


def test_report_prints_json_for_machines(experiments):
    rows = json.loads(run(*experiments, "--format", "json").stdout)
    assert [row["wer"] for row in rows] == [50.0, 12.5]


@pytest.mark.parametrize(
    ("form", "start"), [("md", "## Results"), ("html", "<!doctype html>"), ("table", "exp")]
)
def test_report_writes_a_file_and_prints_nothing(form, start, experiments, tmp_path):
    done = run(*experiments, "--format", form, "--output", tmp_path / "out")
    assert done.stdout == ""
    assert (tmp_path / "out").read_text().startswith(start)


def test_report_compares_with_each_experiment_that_is_named(seeded):
    head = run(*seeded, "--minus", "none", "--minus", "hra").stdout.splitlines()[0]
    assert head.index("minus none") < head.index("minus hra")


def test_report_refuses_a_set_that_was_not_decoded(experiments):
    with pytest.raises(ScoringError, match="only: test"):
        run(*experiments, "--set", "dev")


def test_report_without_experiment_is_misuse():
    assert run().exit_code == 2
