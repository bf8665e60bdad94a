"""Opening an experiment: settings, base model and adapters together."""

import shutil

import pytest
import torch

from adaptkit import experiment
from adaptkit.base import checkpoint as base_checkpoint
from adaptkit.errors import AdaptkitError, CheckpointError
from adaptkit.model.load import load_base_of, load_experiment, read_settings


def test_an_experiment_is_opened_whole_and_frozen(new_exp, base, base_dir):
    exp = new_exp(bottleneck=4)
    loaded = load_experiment(exp)
    assert loaded.folder.path == exp
    assert loaded.settings == experiment.load(exp / "config.yaml")
    assert (loaded.base.path, loaded.base.fingerprint) == (base_dir, base.fingerprint)
    assert loaded.adapters.tasks == loaded.file.tasks == ("spk1", "spk10", "spk2")
    assert not any(parameter.requires_grad for parameter in loaded.adapters.parameters())


def test_the_weights_are_those_of_the_file(new_exp):
    loaded = load_experiment(new_exp(bottleneck=4))
    weights = loaded.adapters.state_dict()
    assert weights.keys() == loaded.file.weights.keys()
    assert all(torch.equal(weight, loaded.file.weights[name]) for name, weight in weights.items())


def test_overrides_change_the_settings(new_exp):
    assert load_experiment(new_exp(), overrides=["train.lr=0.5"]).settings.train.lr == 0.5


def test_a_base_that_moved_is_taken_from_its_new_folder(new_exp, base_dir, tmp_path):
    exp = new_exp()
    shutil.copytree(base_dir, tmp_path / "moved")
    text = (exp / "config.yaml").read_text()
    (exp / "config.yaml").write_text(text.replace(str(base_dir), str(tmp_path / "nowhere")))
    with pytest.raises(AdaptkitError, match="nowhere"):
        load_experiment(exp)
    assert load_experiment(exp, base=tmp_path / "moved").base.path == tmp_path / "moved"


def test_another_base_is_refused(new_exp, new_base, tmp_path):
    other = new_base(seed=1)
    base_checkpoint.save(tmp_path / "other", other.config, other.model.state_dict())
    with pytest.raises(CheckpointError, match="set --base to the folder of the right one"):
        load_experiment(new_exp(), base=tmp_path / "other")


def test_adapters_that_are_missing_are_named_before_the_base_is_loaded(new_exp, caplog):
    exp = new_exp()
    (exp / "adapter.safetensors").unlink()
    with caplog.at_level("INFO"), pytest.raises(CheckpointError, match="'adaptkit train' writes it"):
        load_experiment(exp)
    assert "loading the base model" not in caplog.text


@pytest.mark.parametrize("is_yaml", [False, True])
def test_the_base_is_that_of_a_folder_or_a_yaml(new_exp, base, base_dir, is_yaml):
    exp = new_exp() / "config.yaml" if is_yaml else new_exp()
    assert read_settings(exp).base.dir == base_dir
    assert load_base_of(exp).fingerprint == base.fingerprint


def test_unfinished_training_is_warned_of(new_exp, caplog):
    exp = new_exp()
    load_experiment(exp)
    assert "has not finished" not in caplog.text
    (exp / "train.jsonl").touch()
    load_experiment(exp)
    assert f"{exp}: training has not finished, so these are its best weights so far" in caplog.text
