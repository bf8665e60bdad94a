"""The commands `adaptkit train` and `adaptkit base`."""

from pathlib import Path

import pytest

from adaptkit import experiment
from adaptkit.errors import ConfigError
from adaptkit.kaldi.tables import read_table
from adaptkit.model import checkpoint
from adaptkit.records import RunRecord


@pytest.fixture
def yaml(settings, tmp_path, monkeypatch):
    """An experiment's yaml in an empty folder, which is the current one."""
    experiment.save(settings(max_epochs=1), tmp_path / "tiny.yaml")
    monkeypatch.chdir(tmp_path)
    return "tiny.yaml"


@pytest.fixture
def run(adaptkit):
    """Run a command on the processor."""
    return lambda *words: adaptkit(*words, "--device", "cpu")


def test_training_prints_its_folder_which_is_named_after_the_experiment(run, yaml):
    done = run("train", yaml)
    assert (done.exit_code, done.stdout) == (0, "exp/tiny\n")
    assert Path("exp/tiny/adapter.safetensors").exists()


def test_set_seed_and_exp_change_what_is_trained_and_where(run, yaml):
    done = run("train", yaml, "--set", "adapters.0.bottleneck=2", "--seed", "7", "--exp", "here")
    assert done.stdout == "here\n"
    assert checkpoint.load(Path("here/adapter.safetensors")).adapters[0].bottleneck == 2
    assert RunRecord.read(Path("here/run.json")).seed == 7
    assert RunRecord.read(Path("here/run.json")).name == "tiny"


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (["train", "--seed", "3", "--set", "train.seed=5"], "--seed both set train.seed"),
        (["train", "--shared", "--set", "train.shared=false"], "--shared both set train.shared"),
        (["train", "--augment", "plain", "--set", "augment=mixed"], "--augment both set augment"),
        (["base train", "--seed", "3", "--set", "base.train.seed=5"], "--seed both set base.train.seed"),
        (["base train", "--exp", "exp/b", "--set", "base.dir=exp/c"], "--exp both set base.dir"),
    ],
)
def test_a_setting_given_twice_is_misuse(run, yaml, words, key):
    done = run(*words[0].split(), yaml, *words[1:])
    assert done.exit_code == 2
    assert key in " ".join(done.stderr.replace("│", " ").split())
    assert not Path("exp").exists()


def test_another_seed_gives_other_weights(run, yaml):
    run("train", yaml, "--exp", "a")
    run("train", yaml, "--exp", "b", "--seed", "1")
    a, b = (checkpoint.load(Path(folder, "adapter.safetensors")).weights for folder in "ab")
    assert not any(a[name].equal(b[name]) for name in a if name.endswith("weight"))  # biases start at zero


def test_a_device_that_is_not_there_is_refused(adaptkit, yaml):
    done = adaptkit("train", yaml, "--device", "cuda:99")
    assert isinstance(done.error, ConfigError)
    assert done.stderr.startswith("adaptkit: --device cuda:99: not available")


def test_facts_of_a_base_model_are_printed(adaptkit, base_dir, base):
    done = adaptkit("base", "info", base_dir)
    facts = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert (facts["encoder"], facts["blocks"], facts["width"]) == ("ConformerEncoder", "2", "16")
    assert (facts["fingerprint"], facts["parameters"]) == (base.fingerprint, f"{base.num_parameters:,}")
    weights = dict(base.model.named_parameters())
    num_biases = sum(name.startswith("encoder.") and name.endswith(".bias") for name in weights)
    assert facts["sites"].endswith(f"2 block, 1 encoder_out, {num_biases} bias, {len(weights)} weight")


def test_sites_of_a_base_model_are_listed(adaptkit, base_dir, base):
    done = adaptkit("base", "info", base_dir, "--sites")
    head, *lines = done.stdout.splitlines()
    assert head.split() == ["kind", "block", "in", "out", "name"]
    assert [line.split()[-1] for line in lines] == [site.name for site in base.sites]


def test_a_mistake_is_one_message_and_exit_code_1_without_a_traceback(adaptkit, yaml):
    done = adaptkit("train", yaml, "--set", "train.max_epoch=3")
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == (
        "adaptkit: tiny.yaml: 1 problem:\n"
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
def test_misuse_is_exit_code_2(adaptkit, words):
    done = adaptkit(*words)
    assert done.exit_code == 2
    assert "Usage: " in done.stderr


def test_decoding_prints_its_folder(run, yaml, corpus):
    run("train", yaml)
    done = run("decode", "exp/tiny", corpus / "dump/valid")
    assert (done.exit_code, done.stdout) == (0, "exp/tiny/decode_valid\n")
    assert len(read_table(Path("exp/tiny/decode_valid/text"))) == 6
