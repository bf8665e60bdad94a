"""The whole recipe on a few utterances, and then every command of the README in the folder it leaves."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TINY = ["--prepare-options", "--nj 2 --per-speaker 2"]
BRIEF = ["--set", "base.train.max_epochs=1 train.max_epochs=1"]

pytestmark = pytest.mark.recipe


def environment():
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"}


def run(words, folder):
    return subprocess.run(words, cwd=folder, env=environment(), capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def mini(tmp_path_factory):
    """The folder egs/mini of a copy of the repository, after the recipe has run."""
    root = tmp_path_factory.mktemp("clone")
    made = shutil.ignore_patterns("data", "dump", "exp")
    shutil.copytree(ROOT / "egs/mini", root / "egs/mini", ignore=made)
    for name in ("recipes", "conf"):
        (root / name).symlink_to(ROOT / name)
    done = run([root / "egs/mini/run.sh", *TINY, *BRIEF], root)
    assert done.returncode == 0, done.stderr
    return root / "egs/mini"


def test_recipe_leaves_a_report_of_base_and_adapter(mini):
    done = run(
        ["adaptkit", "report", "exp/none", "exp/residual", "--set", "adapt_test", "--format", "json"], mini
    )

    rows = json.loads(done.stdout)
    assert [row["kind"] for row in rows] == ["none", "residual"]
    assert rows[1]["params_trainable"] == 6 * rows[1]["params_per_task"] > 0
    assert "<svg" in (mini / "exp/report_adapt_test.html").read_text()


def test_recipe_run_again_changes_nothing(mini):
    watched = [
        mini / "exp/base/model.pth",
        mini / "exp/residual/adapter.safetensors",
        mini / "exp/residual/run.json",
    ]
    before = [(path.read_bytes(), path.stat().st_mtime_ns) for path in watched]

    done = run([mini / "run.sh", *TINY, *BRIEF, "--stage", "5", "--stop-stage", "6"], mini)

    assert done.returncode == 0, done.stderr
    assert [(path.read_bytes(), path.stat().st_mtime_ns) for path in watched] == before


def test_kinds_of_several_calls_are_reported_together(mini):
    for name, seeds in (("residual", "1 2"), ("hff", "1")):
        words = ["--adapter", name, "--seeds", seeds, "--jobs", "2", "--stage", "6"]
        done = run([mini / "run.sh", *TINY, *BRIEF, *words], mini)
        assert done.returncode == 0, done.stderr

    rows = [line.split(" | ") for line in (mini / "exp/report_adapt_test.md").read_text().splitlines()]
    experiments = {row[0].strip("| ") for row in rows if len(row) > 8} - {"experiment (kind)"}
    assert {"none", "hff", "residual"} <= experiments
    assert any("minus residual" in cell for row in rows for cell in row)


def test_base_models_of_several_augmentations_are_trained_and_reported_together(mini):
    words = ["--adapt", "false", "--augment", "plain adapt_mild", "--expdir", "exp/augment"]
    sets = ["--test-sets", "base_test adapt_test", "--base-test-sets", "", "--minus", "plain"]

    done = run([mini / "run.sh", *BRIEF, *words, *sets, "--jobs", "2", "--stage", "4"], mini)

    assert done.returncode == 0, done.stderr
    rows = [line.split(" | ") for line in (mini / "exp/augment/report.md").read_text().splitlines()]
    assert {row[0].strip("| ") for row in rows if len(row) == 3} >= {"plain", "adapt_mild"}
    assert (mini / "exp/augment/augment/policies.png").exists()
    assert not (mini / "exp/augment/none").exists()


def test_a_kind_without_settings_is_refused_before_anything_runs(mini):
    done = run([mini / "run.sh", "--adapter", "residul", "--stage", "6"], mini)
    assert done.returncode == 1
    assert "no conf/adapters/residul.yaml" in done.stderr


def test_every_command_of_the_readme_works(mini):
    text = (ROOT / "README.md").read_text()
    blocks = re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)
    commands = [line for block in blocks for line in block.splitlines() if line.startswith("adaptkit ")]
    resumed = {"train": BRIEF[1].split(), "base train": BRIEF[1].split()}

    for command in commands:
        words = shlex.split(command, comments=True)
        for name, changes in resumed.items():
            if command.startswith(f"adaptkit {name} "):
                words += [part for change in changes for part in ("--set", change)]
        done = run(words, mini)
        assert done.returncode == 0, f"{command}\n{done.stderr}"
    assert len(commands) > 8


def test_makefile_has_the_targets_of_the_readme():
    for target in re.findall(r"^make (\w+)", (ROOT / "README.md").read_text(), flags=re.MULTILINE):
        assert run(["make", "-n", target], ROOT).returncode == 0
