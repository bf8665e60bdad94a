"""`adaptkit adapters list` and `show` as a user runs them."""

import pytest

from adaptkit import config
from adaptkit.adapters import api
from adaptkit.adapters.catalog import available
from adaptkit.errors import ConfigError


def test_list_has_a_line_of_each_type(adaptkit):
    done = adaptkit("adapters", "list")
    assert done.exit_code == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["type", *available()]


def test_list_gives_the_closed_form_and_the_paper(adaptkit):
    lines = adaptkit("adapters", "list").stdout.splitlines()
    line = next(line for line in lines if line.startswith("residual"))
    assert "  K L (2 D R + R + D)  " in line
    assert line.rstrip().endswith("Houlsby et al. 2019, arXiv:1902.00751")


@pytest.mark.parametrize("kind", available())
def test_show_ends_with_an_example_that_is_valid(adaptkit, kind, tmp_path):
    done = adaptkit("adapters", "show", kind)
    assert done.exit_code == 0, done.stderr
    (tmp_path / "x.yaml").write_text(done.stdout[done.stdout.index("\nadapters:") :])
    (entry,) = config.read_yaml(tmp_path / "x.yaml")["adapters"]
    assert api.read_config(entry).kind == kind


def test_show_gives_paper_equation_and_parameters(adaptkit):
    text = adaptkit("adapters", "show", "residual").stdout
    assert text.startswith("Residual adapters ")
    assert "\n\nHoulsby et al., Parameter-efficient transfer learning for NLP, 2019, " in text
    assert "\n\ny = x + W_up[k] relu(" in text
    assert "\n\nParameters: K L (2 D R + R + D);" in text


def test_show_puts_changed_options_into_the_example(adaptkit):
    assert (
        "\n    bottleneck: 16\n" in adaptkit("adapters", "show", "residual", "--set", "bottleneck=16").stdout
    )


def test_show_counts_for_a_base_model(adaptkit, base_dir):
    done = adaptkit("adapters", "show", "hra", "--base", base_dir, "--set", "controller_width=8")
    assert done.exit_code == 0, done.stderr
    rows = dict(line.split(maxsplit=1) for line in done.stdout.splitlines()[-3:])
    assert rows == {"sites": "2 block", "per": "speaker  144", "shared": "144"}  # H D + D; D H + 2 H


def test_show_refuses_an_unknown_kind_with_the_nearest(adaptkit):
    done = adaptkit("adapters", "show", "residul")
    assert isinstance(done.error, ConfigError)
    assert "did you mean 'residual'?" in done.stderr
