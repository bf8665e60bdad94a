import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer

from adaptkit.cli.main import app

ADAPTKIT = Path(sys.executable).with_name("adaptkit")


def commands(command=None, words=("adaptkit",)):
    """Every command that can be run, with the words that call it."""
    command = command or typer.main.get_command(app)
    if not hasattr(command, "commands"):
        return [(" ".join(words), command)]
    return [found for name, sub in command.commands.items() for found in commands(sub, (*words, name))]


def seconds_for_help():
    start = time.perf_counter()
    subprocess.run([ADAPTKIT, "--help"], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


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


@pytest.mark.skipif(os.getloadavg()[0] > 2 * os.cpu_count(), reason="too busy here to measure half a second")
def test_help_answers_within_half_a_second():
    assert min(seconds_for_help() for _ in range(3)) < 0.5


@pytest.mark.parametrize(
    ("words", "command"), commands(), ids=lambda value: value if isinstance(value, str) else ""
)
def test_help_of_a_command_is_one_sentence_and_one_example(words, command):
    sentence, example = command.help.strip().split("\n\n")
    assert sentence.endswith(".")
    assert example.startswith(f"Example: {words}")


@pytest.mark.parametrize("words", [["nonsense"], ["data", "info"], ["data", "info", "--nonsense"]])
def test_misuse_exits_with_2(words):
    done = subprocess.run([ADAPTKIT, *words], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Usage: adaptkit" in done.stderr
