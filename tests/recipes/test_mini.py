"""The whole recipe on a few utterances with a tiny model, and the README's commands in what it leaves."""

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from adaptkit import config
from adaptkit.features.archive import load_feats
from adaptkit.kaldi import datadir

ROOT = Path(__file__).parents[2]
FEW = ["--prepare-options", "--per-speaker 2", "--base-test-sets", "base_valid"]
SETS = "base_train base_valid adapt_train adapt_valid adapt_test"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(forking):
    """Run a recipe to its end."""

    def call(folder, *words):
        done = subprocess.run(words, cwd=folder, env=forking, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    return call


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """The folder egs/mini of a copy of the repository, with a model of two small blocks and one epoch."""
    root = tmp_path_factory.mktemp("clone")
    made = shutil.ignore_patterns("data", "dump", "exp")
    folder = shutil.copytree(ROOT / "egs/mini", root / "egs/mini", symlinks=True, ignore=made)
    for name in ("recipes", "conf"):
        (root / name).symlink_to(ROOT / name)
    model = config.read_yaml(ROOT / "conf/base/conformer_6x64.yaml")
    model["encoder_conf"] |= {"num_blocks": 2, "output_size": 16, "attention_heads": 2, "linear_units": 32}
    config.write_yaml(folder / "conf/tiny.yaml", model)
    settings = config.read_yaml(folder / "conf/mini.yaml")
    settings["base"]["model"] = "conf/tiny.yaml"
    settings["base"]["train"]["max_epochs"] = settings["train"]["max_epochs"] = 1
    config.write_yaml(folder / "conf/mini.yaml", settings)
    return folder


@pytest.fixture(scope="module")
def mini(clone, run):
    """The same after the recipe has run."""
    run(clone, "./run.sh", *FEW, "--sets", SETS)
    return clone


@pytest.fixture
def in_mini(adaptkit, mini, monkeypatch):
    """Run a command there, which must succeed; give what it prints."""
    monkeypatch.chdir(mini)

    def call(*words):
        done = adaptkit(*words)
        assert done.exit_code == 0, f"{shlex.join(words)}\n{done.stderr}"
        return done.stdout

    return call


def experiments_in(report):
    """The first cells of the first table of a report in markdown."""
    rows = [line.strip("| ").split(" | ") for line in report.read_text().splitlines() if line.startswith("|")]
    return {row[0] for row in rows if len(row) == len(rows[0])}


def test_recipe_leaves_a_report_of_base_and_adapter(mini, in_mini):
    words = ("report", "exp/none", "exp/residual", "--test-set", "adapt_test", "--format", "json")
    rows = json.loads(in_mini(*words))
    assert [row["kind"] for row in rows] == ["none", "residual"]
    assert rows[1]["params_trainable"] == 6 * rows[1]["params_per_task"] > 0
    assert "<svg" in (mini / "exp/report_adapt_test.html").read_text()


def test_trainings_run_again_change_nothing(mini, run):
    watched = [
        mini / "exp" / name
        for name in ("base/model.pth", "residual/adapter.safetensors", "residual/run.json")
    ]
    before = [(path.read_bytes(), path.stat().st_mtime_ns) for path in watched]
    run(mini, "./run.sh", "--stage", "5", "--stop-stage", "6")
    assert [(path.read_bytes(), path.stat().st_mtime_ns) for path in watched] == before


def test_features_have_the_asked_number_of_bins(mini, run, tmp_path):
    shutil.copytree(mini / "conf", tmp_path / "conf")
    shutil.copytree(mini / "data", tmp_path / "data")
    words = ["--config", "conf/mini.yaml", "--sets", "base_valid", "--stage", "3", "--stop-stage", "3"]
    run(tmp_path, ROOT / "recipes/adapt.sh", *words, "--bins", "23")
    location, *_ = datadir.read(tmp_path / "dump/base_valid").feats.values()
    assert load_feats(location).shape[1] == 23


def test_a_base_model_is_trained_in_as_many_processes_as_asked(mini, run):
    words = ["--config", "conf/mini.yaml", "--adapt", "false", "--stage", "5", "--stop-stage", "5"]
    run(
        mini,
        "recipes/adapt.sh",
        *words,
        "--processes",
        "2",
        "--expdir",
        "exp/two",
        "--set",
        "base.dir=exp/two/base",
    )
    log = (mini / "exp/two/log/base.log").read_text()
    assert "process 1 of 2" in log
    assert (mini / "exp/two/base/model.pth").exists()


def test_adapters_of_several_comparisons_are_reported_together(mini, run, tmp_path):
    earlier = shutil.copytree(mini / "exp/residual", tmp_path / "1")
    shutil.move(earlier, mini / "exp/residual/1")
    words = ["--config", "conf/mini.yaml", "--test-sets", "adapt_test", "--stage", "6"]
    run(mini, "recipes/compare.sh", *words, "--adapter", "hff")

    report = mini / "exp/report_adapt_test.md"
    assert {"none", "hff", "residual"} <= experiments_in(report)
    assert "minus residual" in report.read_text()


def test_base_models_of_several_augmentations_are_reported_together(mini, in_mini, run):
    for name in ("plain", "adapt_mild"):
        exp = f"exp/augment/{name}/1"
        in_mini("base", "train", "conf/mini.yaml", "--augment", name, "--seed", "1", "--exp", exp)
        for test in ("base_valid", "adapt_test"):
            decoded = f"{exp}/decode_{test}"
            in_mini("decode", exp, f"dump/{test}", "--base-only", "--out", decoded)
            in_mini("score", f"data/{test}", decoded)
    words = ["--config", "conf/mini.yaml", "--test-sets", "base_valid adapt_test", "--stage", "9"]
    named = ["--augment", "plain adapt_mild", "--minus", "plain", "--expdir", "exp/augment"]
    run(mini, "recipes/compare.sh", *words, "--adapt", "false", *named)

    assert experiments_in(mini / "exp/augment/report.md") >= {"plain", "adapt_mild"}
    assert not (mini / "exp/augment/none").exists()


def test_every_command_of_the_readme_and_the_docs_works(in_mini, run, mini):
    pages = [page for page in sorted((ROOT / "docs").rglob("*.md")) if page.name != "released.md"]
    texts = [path.read_text() for path in (ROOT / "README.md", *pages)]  # the other: test_released.py
    blocks = [block for text in texts for block in re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)]
    lines = [line for block in blocks for line in block.splitlines()]
    commands = [line for line in lines if line.startswith(("adaptkit ", "sed "))]
    for command in commands:
        if command.startswith("sed "):
            run(mini, "bash", "-c", command)
        else:
            in_mini(*shlex.split(command, comments=True)[1:])
    assert len(commands) > 8


def test_makefile_has_the_targets_of_the_readme(run_process):
    targets = re.findall(r"^make (\w+)", (ROOT / "README.md").read_text(), flags=re.MULTILINE)
    assert [name for name in targets if run_process("make", "-n", name, cwd=ROOT).returncode != 0] == []
