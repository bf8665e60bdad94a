"""`adaptkit adapters list` and `show` as a user runs them."""

import pytest
from typer.testing import CliRunner

from adaptkit import config
from adaptkit.adapters import api
from adaptkit.adapters.catalog import available
from adaptkit.cli import adapters
from adaptkit.errors import ConfigError


def run(*words):
    return CliRunner().invoke(adapters.app, [str(word) for word in words])


def test_list_has_a_line_of_each_kind():
    done = run("list")
    assert done.exit_code == 0, done.output
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["kind", *available()]


def test_list_gives_the_closed_form_and_the_paper():
    line = next(line for line in run("list").stdout.splitlines() if line.startswith("residual"))
    assert "  K L (2 D R + R + D)  " in line
    assert line.rstrip().endswith("Houlsby et al. 2019, arXiv:1902.00751")


@pytest.mark.parametrize("kind", available())
def test_show_ends_with_an_example_that_is_valid(kind, tmp_path):
    done = run("show", kind)
    assert done.exit_code == 0, done.output
    (tmp_path / "x.yaml").write_text(done.stdout[done.stdout.index("\nadapters:") :])
    (entry,) = config.read_yaml(tmp_path / "x.yaml")["adapters"]
    assert api.read_config(entry).kind == kind


def test_show_gives_paper_equation_and_numbers():
    text = run("show", "residual").stdout
    assert text.startswith("Residual adapters after or beside every block, one set per task\n\nHoulsby")
    assert "\n\ny = x + W_up[k] relu(" in text
    assert "\n\nNumbers: K L (2 D R + R + D);" in text


def test_show_puts_changed_options_into_the_example():
    assert "\n    bottleneck: 16\n" in run("show", "residual", "--set", "bottleneck=16").stdout


@pytest.mark.espnet
def test_show_counts_for_a_base_model(base_dir):
    done = run("show", "hra", "--base", base_dir, "--set", "controller_width=8")
    assert done.exit_code == 0, done.output
    rows = dict(line.split(maxsplit=1) for line in done.stdout.splitlines()[-3:])
    assert rows == {"sites": "2 block", "per": "task     144", "shared": "144"}  # H D + D; D H + 2 H


def test_show_refuses_an_unknown_kind_with_the_nearest():
    error = run("show", "residul").exception
    assert isinstance(error, ConfigError)
    assert "did you mean 'residual'?" in str(error)
