"""Whole trainings of base models."""

import shutil
from pathlib import Path

import pytest
import torch

from adaptkit import config, experiment
from adaptkit.base import checkpoint as base_checkpoint
from adaptkit.errors import CheckpointError, ConfigError
from adaptkit.features.archive import load_feats
from adaptkit.features.fbank import cmvn_stats, write_cmvn
from adaptkit.kaldi.tables import read_table
from adaptkit.records import RunRecord
from adaptkit.training import base_run

pytestmark = pytest.mark.slow

ESPNET_YAML = {
    "input_size": 20,
    "encoder": "conformer",
    "encoder_conf": {
        **{
            "output_size": 16,
            "attention_heads": 2,
            "linear_units": 24,
            "num_blocks": 2,
            "macaron_style": True,
        },
        **{"rel_pos_type": "latest", "cnn_module_kernel": 7, "dropout_rate": 0.2},
    },
    "model_conf": {"ctc_weight": 1.0},
    "normalize": "global_mvn",
    "specaug": "specaug",
    "specaug_conf": {
        "apply_time_warp": False,
        "num_freq_mask": 1,
        "freq_mask_width_range": [0, 5],
        "apply_time_mask": False,
    },
    "optim": "adam",  # ESPnet's own training, which is not used
}


@pytest.fixture
def base_settings(corpus, tmp_path):
    """An experiment that trains a base model with dropout and SpecAugment; keywords are training options."""
    data = shutil.copytree(corpus / "dump", tmp_path / "dump")
    stats = cmvn_stats(map(load_feats, read_table(data / "train/feats.scp").values()))
    write_cmvn(data / "train/feats_stats.npz", stats)
    config.write_yaml(tmp_path / "conformer.yaml", ESPNET_YAML)

    def make(tokens=None, **training):
        options = {"max_epochs": 3, "batch_frames": 500, "lr": 0.01, "warmup_steps": 2, **training}
        section = {"dir": str(tmp_path / "base"), "model": str(tmp_path / "conformer.yaml"), "train": options}
        section["data"] = {"train": str(data / "train"), "valid": str(data / "valid")}
        section["tokens"] = tokens or {"type": "char"}
        return experiment.Experiment.model_validate({"name": "tiny", "base": section})

    return make


def test_a_trained_base_is_read_back_and_its_model_is_described(base_settings, tmp_path):
    base_run.train_base(base_settings(max_epochs=1), device="cpu")
    trained = base_checkpoint.load(tmp_path / "base")
    assert trained.tokens.tokens == ("<blank>", "<unk>", "<space>", "A", "B", "C", "<sos/eos>")
    assert trained.features["num_bins"] == 20
    record = RunRecord.read(tmp_path / "base/run.json")
    assert (record.base_fingerprint, record.valid_metric) == (trained.fingerprint, "wer")
    assert Path(trained.config["normalize_conf"]["stats_file"]).parent == tmp_path / "base"


def test_a_base_with_bpe_keeps_its_tokens_beside_it(base_settings, tmp_path):
    base_run.train_base(base_settings(tokens={"type": "bpe", "size": 8}, max_epochs=1), device="cpu")
    trained = base_checkpoint.load(tmp_path / "base")
    assert trained.tokens.bpe == (tmp_path / "base/bpe.model").read_bytes()
    assert len(trained.tokens.tokens) == 8


def test_a_killed_base_training_resumes_to_the_same_weights(
    base_settings, tmp_path, kill_at, tensors_in, assert_same
):
    made = base_settings(max_epochs=8, save_every_steps=2, average=2)
    experiment.save(made, tmp_path / "tiny.yaml")
    kill_at(5, tmp_path / "base", "base", "train", tmp_path / "tiny.yaml", "--device", "cpu")
    with pytest.raises(CheckpointError, match="has not finished .*'adaptkit base train CONFIG --resume'"):
        base_checkpoint.load(tmp_path / "base")
    base_run.train_base(made, device="cpu", resume=True)
    path = tmp_path / "base/model.pth"
    resumed = torch.load(path), tensors_in(tmp_path / "base"), path.read_bytes()
    shutil.rmtree(tmp_path / "base")
    base_run.train_base(made, device="cpu")
    again = (tmp_path / "base/model.pth").read_bytes()  # of an average, in the order of the model's weights
    assert_same(resumed[0], torch.load(tmp_path / "base/model.pth"))
    assert resumed[2] == again
    assert_same(resumed[1], tensors_in(tmp_path / "base"))


def test_a_refused_second_base_changes_no_file(base_settings, tmp_path, content):
    base_run.train_base(base_settings(tokens={"type": "bpe", "size": 8}, max_epochs=1), device="cpu")
    before = content(tmp_path / "base")
    other = base_settings(tokens={"type": "bpe", "size": 9}, max_epochs=1)
    for resume, message in ((False, "holds a run already"), (True, r"base\.tokens\.size \(8, now 9\)")):
        with pytest.raises(CheckpointError, match=message):
            base_run.train_base(other, device="cpu", resume=resume)
    assert content(tmp_path / "base") == before


def test_an_imported_base_model_is_not_trained_over(base_settings, base_dir, tmp_path, content):
    shutil.copytree(base_dir, tmp_path / "base")
    before = content(tmp_path / "base")
    with pytest.raises(CheckpointError, match=r"base: holds model.pth, which .* choose another folder"):
        base_run.train_base(base_settings(max_epochs=1), device="cpu", resume=True)
    assert content(tmp_path / "base") == before


def test_training_a_base_moves_its_weights_and_statistics(base_settings, tmp_path):
    base_run.train_base(base_settings(max_epochs=1), device="cpu")
    norm = base_checkpoint.load(tmp_path / "base").model.encoder.encoders[0].conv_module.norm
    assert norm.num_batches_tracked > 0
    assert norm.running_mean.any()


def test_a_base_without_a_model_to_build_is_refused(settings):
    with pytest.raises(ConfigError, match="base: training needs 'data'"):
        base_run.train_base(settings(), device="cpu")


def test_a_base_whose_blocks_are_left_out_at_times_is_trained(base_settings, tmp_path):
    settings = base_settings(max_epochs=1)
    encoder = {**ESPNET_YAML["encoder_conf"], "stochastic_depth_rate": 0.9}  # some blocks have no gradient
    config.write_yaml(tmp_path / "conformer.yaml", {**ESPNET_YAML, "encoder_conf": encoder})
    base_run.train_base(settings, device="cpu")
    assert RunRecord.read(tmp_path / "base/run.json").epochs == 1


def trained_further(settings, tmp_path, **changes):
    """The settings of a base model in `further`, which starts from the one in `base`."""
    section = {"dir": tmp_path / "further", "init": tmp_path / "base", "model": None, **changes}
    return settings.model_copy(update={"base": settings.base.model_copy(update=section)})


def test_a_base_model_is_trained_further_on_its_own_architecture_and_tokens(base_settings, tmp_path, caplog):
    settings = base_settings(max_epochs=1)
    base_run.train_base(settings, device="cpu")
    slow = settings.base.train.model_copy(update={"lr": 1e-30, "weight_decay": 0.0, "warmup_steps": 0})
    caplog.set_level("INFO")
    base_run.train_base(trained_further(settings, tmp_path, train=slow), device="cpu")
    before, after = base_checkpoint.load(tmp_path / "base"), base_checkpoint.load(tmp_path / "further")
    assert after.tokens == before.tokens
    assert after.features == before.features
    own, other = dict(after.model.named_parameters()), before.model.named_parameters()
    assert all(own[name].equal(tensor) for name, tensor in other)
    assert "initialised at random" not in caplog.text
    assert "further: took " in caplog.text


def test_the_start_is_kept_where_further_training_does_harm(base_settings, tmp_path):
    settings = base_settings(max_epochs=3)
    base_run.train_base(settings, device="cpu")
    changes = {"lr": 0.5, "warmup_steps": 0, "valid_metric": "loss", "max_epochs": 1}
    wild = settings.base.train.model_copy(update=changes)
    base_run.train_base(trained_further(settings, tmp_path, train=wild), device="cpu")
    before, after = base_checkpoint.load(tmp_path / "base"), base_checkpoint.load(tmp_path / "further")
    assert after.fingerprint == before.fingerprint


def test_a_resumed_run_does_without_the_model_it_started_from(base_settings, tmp_path):
    settings = base_settings(max_epochs=1)
    base_run.train_base(settings, device="cpu")
    whole = settings.base.train.model_copy(update={"max_epochs": 2, "schedule": "constant"})
    base_run.train_base(trained_further(settings, tmp_path, train=whole), device="cpu")
    once = base_checkpoint.load(tmp_path / "further").fingerprint
    shutil.rmtree(tmp_path / "further")
    half = settings.base.train.model_copy(update={"max_epochs": 1, "schedule": "constant"})
    base_run.train_base(trained_further(settings, tmp_path, train=half), device="cpu")
    shutil.move(tmp_path / "base", tmp_path / "gone")
    base_run.train_base(trained_further(settings, tmp_path, train=whole), device="cpu", resume=True)
    assert base_checkpoint.load(tmp_path / "further").fingerprint == once


def test_other_tokens_leave_the_output_layer_new(base_settings, tmp_path, caplog):
    settings = base_settings(max_epochs=1)
    base_run.train_base(settings, device="cpu")
    model = settings.base.model
    for name in ("train", "valid"):
        text = tmp_path / "dump" / name / "text"
        text.write_text(text.read_text().replace("A", "Z"))
    base_run.train_base(trained_further(settings, tmp_path, model=model), device="cpu")
    assert "ctc.ctc_lo: initialised at random; the tokens differ" in caplog.text


def test_another_encoder_is_no_start(base_settings, tmp_path):
    settings = base_settings(max_epochs=1)
    base_run.train_base(settings, device="cpu")
    wider = {**ESPNET_YAML, "encoder_conf": {**ESPNET_YAML["encoder_conf"], "linear_units": 32}}
    config.write_yaml(tmp_path / "wider.yaml", wider)
    with pytest.raises(
        ConfigError, match="its encoder differs from that of base.model: encoder.*; omit base.model"
    ):
        base_run.train_base(trained_further(settings, tmp_path, model=tmp_path / "wider.yaml"), device="cpu")
    with pytest.raises(ConfigError, match="is base.dir too; continue a finished training with --resume"):
        base_run.train_base(trained_further(settings, tmp_path, dir=tmp_path / "base"), device="cpu")
