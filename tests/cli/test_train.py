"""The commands `adaptkit train` and `adaptkit base`."""

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from adaptkit import experiment
from adaptkit.cli.main import app
from adaptkit.errors import ConfigError
from adaptkit.kaldi.tables import read_table
from adaptkit.model import checkpoint
from adaptkit.records import RunRecord

pytestmark = pytest.mark.espnet
COMMAND = Path(sys.executable).with_name("adaptkit")


@pytest.fixture
def yaml(settings, tmp_path, monkeypatch):
    """An experiment's yaml in an empty folder, which is the current one."""
    experiment.save(settings(max_epochs=1), tmp_path / "tiny.yaml")
    monkeypatch.chdir(tmp_path)
    return "tiny.yaml"


def run(*words):
    return CliRunner().invoke(app, [*words, "--device", "cpu"])


def run_command(*words):
    return subprocess.run([COMMAND, *words], capture_output=True, text=True, timeout=120)


def test_training_prints_its_folder_which_is_named_after_the_experiment(yaml):
    done = run("train", yaml)
    assert (done.exit_code, done.stdout) == (0, "exp/tiny\n")
    assert Path("exp/tiny/adapter.safetensors").exists()


def test_set_seed_and_exp_change_what_is_trained_and_where(yaml):
    done = run("train", yaml, "--set", "adapters.0.bottleneck=2", "--seed", "7", "--exp", "here")
    assert done.stdout == "here\n"
    assert checkpoint.load(Path("here/adapter.safetensors")).adapters[0].bottleneck == 2
    assert RunRecord.read(Path("here/run.json")).seed == 7
    assert RunRecord.read(Path("here/run.json")).name == "tiny"


def test_another_seed_gives_other_weights(yaml):
    run("train", yaml, "--exp", "a")
    run("train", yaml, "--exp", "b", "--seed", "1")
    a, b = (checkpoint.load(Path(folder, "adapter.safetensors")).weights for folder in "ab")
    assert not any(a[name].equal(b[name]) for name in a if name.endswith("weight"))  # biases start at zero


def test_a_device_that_is_not_there_is_refused(yaml):
    done = CliRunner().invoke(app, ["train", yaml, "--device", "cuda:99"])
    assert isinstance(done.exception, ConfigError)
    assert str(done.exception).startswith("--device cuda:99: not on this machine")


def test_facts_of_a_base_model_are_printed(base_dir, base):
    done = CliRunner().invoke(app, ["base", "info", str(base_dir)])
    facts = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert (facts["encoder"], facts["blocks"], facts["width"]) == ("ConformerEncoder", "2", "16")
    assert (facts["fingerprint"], facts["parameters"]) == (base.fingerprint, f"{base.num_parameters:,}")
    assert facts["sites"].endswith(f"2 block, 1 encoder_out, {len(list(base.model.parameters()))} weight")


def test_sites_of_a_base_model_are_listed(base_dir, base):
    done = CliRunner().invoke(app, ["base", "info", str(base_dir), "--sites"])
    assert [line.split()[-1] for line in done.stdout.splitlines()] == [site.name for site in base.sites]


def test_a_mistake_is_one_message_and_exit_code_1_without_a_traceback(yaml):
    done = run_command("train", yaml, "--set", "train.max_epoch=3")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == (
        "adaptkit: tiny.yaml: 1 problem(s):\n"
        "  train.max_epoch: unknown key; did you mean 'max_epochs'? (seen: 3)\n"
    )


@pytest.mark.parametrize(
    "words",
    [
        ("train",),
        ("train", "tiny.yaml", "--sed", "3"),
        ("train", "tiny.yaml", "--seed", "-1"),
        ("decode", "exp/tiny"),
        ("decode", "exp/tiny", "dump/test", "--unknown-speaker", "ignore"),
        ("decode", "exp/tiny", "dump/test", "--batch-frames", "0"),
        ("base", "trian"),
    ],
)
def test_misuse_is_exit_code_2(words):
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 2
    assert "Usage: " in done.stderr


def test_decoding_prints_its_folder(yaml, corpus):
    run("train", yaml)
    done = run("decode", "exp/tiny", str(corpus / "dump/valid"))
    assert (done.exit_code, done.stdout) == (0, "exp/tiny/decode_valid\n")
    assert len(read_table(Path("exp/tiny/decode_valid/text"))) == 6
