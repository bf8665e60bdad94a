"""`adaptkit bench submodels` as a user runs it."""

import pytest

SIZES = ["--speakers", 2, "--sec", 1, "--rounds", 1, "--loads", 3]
WORDS = ["bench", "submodels", *SIZES, "--set", "bottleneck=4"]


@pytest.mark.slow
@pytest.mark.usefixtures("_starts_forks")
def test_all_columns_are_printed(adaptkit, base_dir):
    more = ["--resident", "10", "--serve", "--clients", "2"]
    done = adaptkit(*WORDS, "--base", base_dir, *more)

    assert done.exit_code == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line[:18].strip() for line in lines] == [
        *("decoding", "base alone", "mixed", "mixed, half base", "one by one"),
        *("loading", "3 loads", "resident", "10 in memory", "serving", "1 at once", "2 at once"),
    ]
    assert lines[1].split()[3] == lines[10].split()[5] == "1.00"  # ratios
    assert lines[6].split()[2] == lines[8].split()[3] == "1,184"  # bytes
    assert [line.split()[-2:] for line in lines[9:]] == [["errors", "wrong"], ["0", "0"], ["0", "0"]]


@pytest.mark.parametrize("words", [[], ["--base", "x", "--model", "y"]])
def test_a_base_or_a_model_is_needed(adaptkit, words):
    assert adaptkit("bench", "submodels", *words).exit_code == 2


@pytest.mark.parametrize("option", ["--clients", "--workers"])
def test_options_of_the_server_without_one_are_refused(adaptkit, base_dir, option):
    done = adaptkit(*WORDS, "--base", base_dir, option, 2)

    assert done.exit_code == 2
    assert "need --serve" in done.stderr
