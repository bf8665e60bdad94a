"""The shell of the recipes: options, help, and the local runner in the form of Kaldi's run.pl."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(*words, cwd=None):
    return subprocess.run(words, capture_output=True, text=True, cwd=cwd, check=False)


def test_help_lists_every_option_with_its_default():
    done = run(ROOT / "recipes/adapt.sh", "--help")

    assert done.returncode == 0
    assert "--stop-stage       last stage to run (default: 9)" in done.stdout
    assert "--cmd              Kaldi's run.pl" in done.stdout


def test_unknown_option_is_misuse():
    done = run(ROOT / "recipes/adapt.sh", "--stagee", "3")

    assert done.returncode == 2
    assert "no option --stagee" in done.stderr


def test_missing_value_is_misuse():
    done = run(ROOT / "recipes/adapt.sh", "--config")

    assert done.returncode == 2
    assert "--config needs a value" in done.stderr


def test_runner_keeps_output_in_the_log_and_shows_it(tmp_path):
    done = run(ROOT / "recipes/run.sh", tmp_path / "log/x.log", "echo", "two words")

    assert done.stdout == "two words\n"
    assert (tmp_path / "log/x.log").read_text() == "# echo two words\ntwo words\n"


def test_runner_fails_with_its_command(tmp_path):
    assert run(ROOT / "recipes/run.sh", tmp_path / "x.log", "false").returncode == 1


def test_runner_numbers_the_jobs_of_an_array(tmp_path):
    run(ROOT / "recipes/run.sh", "JOB=1:3", tmp_path / "x.JOB.log", "echo", "job JOB")

    assert [(tmp_path / f"x.{n}.log").read_text().splitlines()[1] for n in (1, 2, 3)] == [
        "job 1",
        "job 2",
        "job 3",
    ]


def test_runner_fails_when_one_job_of_an_array_fails(tmp_path):
    done = run(ROOT / "recipes/run.sh", "JOB=1:2", tmp_path / "x.JOB.log", "test", "JOB", "-eq", "2")

    assert done.returncode == 1


def test_every_corpus_is_a_folder_of_three_parts():
    for folder in (ROOT / "egs").iterdir():
        assert (folder / "run.sh").stat().st_mode & 0o100, folder
        assert (folder / "local/prepare.py").exists(), folder
        assert list((folder / "conf").glob("*.yaml")), folder
