import contextlib
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from adaptkit.cli.options import suggest


def test_help_loads_neither_torch_nor_espnet():
    program = (
        "import sys\n"
        "sys.argv = ['adaptkit', '--help']\n"
        "from adaptkit.cli.main import main\n"
        "try:\n    main()\nfinally:\n"
        "    loaded = {'torch', 'espnet', 'espnet2', 'numpy', 'matplotlib', 'pydantic'} & set(sys.modules)\n"
        "    print(sorted(loaded), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n"
    assert "Usage: adaptkit" in done.stdout


def test_help_takes_half_a_second_of_the_processor(run_process):
    def measure():
        before = os.times()
        run_process("adaptkit", "--help")
        return os.times().children_user - before.children_user

    assert any(measure() < 0.5 for _ in range(10))  # other processes slow some down


def test_help_of_every_command_is_one_sentence_and_one_example(commands):
    offenders = [
        words
        for words, command in commands.items()
        if "\n\n" in command.help
        or not command.help.endswith(".")
        or not f"{command.example} ".startswith(f"adaptkit {words} ")
    ]
    assert offenders == []


def test_help_ends_with_an_example_on_one_line_on_any_terminal(adaptkit, commands):
    for words, command in commands.items():
        for columns in ("40", "80", "200"):
            text = adaptkit(*words.split(), "--help", columns=columns).stdout
            assert text.rstrip().endswith(f"\n\n   {command.example.strip()}"), words


def test_help_shows_what_it_says(adaptkit):
    assert "needs the extra 'hub'" in " ".join(
        adaptkit("base", "import", "--help", columns="200").stdout.split()
    )


def test_h_is_help(adaptkit):
    assert adaptkit("data", "info", "-h").stdout == adaptkit("data", "info", "--help").stdout != ""


def test_version_is_that_of_the_package(adaptkit):
    assert adaptkit("--version").stdout == f"adaptkit {metadata.version('adaptkit')}\n"


@pytest.mark.parametrize("words", [["nonsense"], ["data", "info"], ["data", "info", "--nonsense"]])
def test_misuse_exits_with_2(adaptkit, words):
    done = adaptkit(*words)
    assert (done.exit_code, done.stdout) == (2, "")
    assert "Usage: adaptkit" in done.stderr


@pytest.mark.parametrize(
    ("words", "choices"),
    [
        (["decode", "exp/x", "dump/test", "--unknown-speaker", "ignore"], "'error', 'base'"),
        (["submodels", "enroll", "exp/x", "--data", "d", "--start", "middle"], "'mean', 'nearest', 'new'"),
        (["report", "exp/x", "--format", "pdf"], "'table', 'md', 'json', 'csv', 'latex', 'html'"),
    ],
)
def test_a_wrong_choice_is_misuse_and_names_the_choices(adaptkit, words, choices):
    done = adaptkit(*words)
    assert done.exit_code == 2
    assert f"is not one of {choices}" in done.stderr


def test_the_next_command_is_shown_on_a_terminal_only(capsys):
    ours, theirs = os.openpty()
    with os.fdopen(theirs, "w") as terminal, contextlib.redirect_stderr(terminal):
        suggest("decode", Path("exp/my own"), "DATA")
    suggest("decode", Path("exp/my own"), "DATA")

    assert os.read(ours, 100) == b"next: adaptkit decode exp/my\\ own DATA\r\n"
    assert capsys.readouterr() == ("", "")
    os.close(ours)
