"""The shell of the recipes: options, help, and the local runner in the form of Kaldi's run.pl."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from adaptkit import config

ROOT = Path(__file__).parents[2]


def run(*words, cwd=None):
    return subprocess.run(words, capture_output=True, text=True, cwd=cwd, check=False)


def recipe(*words, cwd=None):
    """Run a recipe with the adaptkit of this python."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    command = [str(word) for word in words]
    environment = {**os.environ, "PATH": path}
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, check=False)


def adapt(*words, cwd=None):
    """Run the recipe of adapters."""
    return recipe(ROOT / "recipes/adapt.sh", *words, cwd=cwd)


def test_help_lists_every_option_with_its_default():
    done = run(ROOT / "recipes/adapt.sh", "--help")

    assert done.returncode == 0
    assert "--stop-stage       last stage to run (default: 9)" in done.stdout
    assert "--cmd              Kaldi's run.pl" in done.stdout


@pytest.mark.parametrize("name", ["adapter", "augment", "adapt", "seeds", "minus"])
def test_help_names_the_options_of_comparisons(name):
    assert f"  --{name} " in run(ROOT / "recipes/adapt.sh", "--help").stdout


@pytest.mark.parametrize("name", ["few", "known", "new", "spaces", "counts", "starts"])
def test_help_names_the_options_of_submodels(name):
    assert f"  --{name} " in run(ROOT / "recipes/submodels.sh", "--help").stdout


@pytest.mark.parametrize("corpus", ["voices", "fsdd"])
def test_submodels_of_a_corpus_take_options_that_the_recipe_has(corpus):
    done = run(ROOT / "egs" / corpus / "submodels.sh", "--help")
    assert done.returncode == 0, done.stderr
    assert "Train Submodels of many speakers" in done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--config", "none.yaml"], "no none.yaml here"),
        (["--few", "none.txt"], "--few: no list 'none.txt'"),
        (["--known", "lists/known_speakers.txt", "--new", ""], "--known needs --new too"),
        (["--known", "", "--new", "lists/new_speakers.txt"], "--new needs --known too"),
    ],
)
def test_submodels_without_what_they_need_are_misuse(words, message):
    done = recipe(ROOT / "egs/fsdd/submodels.sh", *words, "--stage", 9)
    assert done.returncode == 2
    assert message in done.stderr


def test_adapters_and_augmentations_are_not_compared_at_once(tmp_path):
    done = adapt("--config", "x.yaml", "--adapter", "residual", "--augment", "plain", cwd=tmp_path)

    assert done.returncode == 2
    assert "give --adapter or --augment, not both" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--augment", "plain own"], "'own' is said in the yaml"),
        (["--augment", "plain", "--set", "augment.spec.freq_masks=1"], "write a policy"),
    ],
)
def test_augmentations_that_would_not_be_those_shown_are_misuse(tmp_path, words, message):
    done = adapt("--config", "x.yaml", *words, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr


@pytest.fixture
def stage_4(corpus, tmp_path):
    """Run the stage that shows augmentations, in a folder with two policies and an experiment without any."""
    for name, width in (("narrow", 3), ("wide", 9)):
        config.write_yaml(
            tmp_path / f"conf/augment/{name}.yaml", {"spec": {"freq_masks": 1, "freq_width": width}}
        )
    config.write_yaml(tmp_path / "x.yaml", {"name": "x", "base": {"dir": "exp/base"}})
    (tmp_path / "dump").symlink_to(corpus / "dump")

    def show(*words):
        stages = ("--config", "x.yaml", "--sets", "train", "--stage", 4, "--stop-stage", 4)
        done = adapt(*stages, *words, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return sorted(path.parent.name for path in tmp_path.glob("exp/augment/*/policy.yaml"))

    return show


def test_stage_4_shows_the_augmentations_that_are_compared(stage_4):
    assert stage_4("--augment", "narrow wide") == ["narrow", "wide"]


def test_stage_4_shows_that_of_the_experiment_as_changed_by_set(stage_4):
    assert stage_4("--set", "name=changed augment=wide") == ["changed"]


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
