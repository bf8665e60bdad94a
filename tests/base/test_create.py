"""The description of a base model that is to be trained."""

import logging
import shutil

import numpy as np
import pytest

from adaptkit import config
from adaptkit.base import create
from adaptkit.errors import ConfigError, DataError

YAML = {"input_size": 20, "encoder": "conformer", "normalize": "global_mvn", "optim": "adam", "max_epoch": 9}


@pytest.fixture
def describe(corpus, tmp_path):
    """Describe a model of the training set in the folder `base`; keywords replace keys of ESPnet's yaml."""
    data = shutil.copytree(corpus / "dump/train", tmp_path / "train")
    np.savez(data / "feats_stats.npz", count=1.0, sum=np.zeros(20), sum_square=np.ones(20))

    def run(token_type="char", num_tokens=500, **changes):
        config.write_yaml(tmp_path / "conformer.yaml", {**YAML, **changes})
        files = (tmp_path / "conformer.yaml", data, tmp_path / "base")
        return create.make_config(*files, token_type=token_type, num_tokens=num_tokens)

    return run


def test_tokens_are_the_characters_of_the_training_set(describe):
    assert describe()["token_list"] == ["<blank>", "<unk>", "<space>", "A", "B", "C", "<sos/eos>"]


def test_bpe_is_trained_into_the_folder(describe, tmp_path):
    described = describe("bpe", 8)
    assert len(described["token_list"]) == 8
    assert described["bpemodel"] == str(tmp_path / "base/bpe.model")


def test_how_features_were_made_is_kept_with_the_model(describe):
    assert describe()["adaptkit"]["features"]["num_bins"] == 20


def test_a_model_that_reads_speech_is_told_nothing_of_features(describe):
    assert "adaptkit" not in describe(input_size=None, normalize="utterance_mvn")


def test_a_model_that_reads_speech_is_not_normalised_by_statistics_of_other_features(describe, tmp_path):
    with pytest.raises(ConfigError, match="needs the statistics of its own features"):
        describe(input_size=None)
    own = {"stats_file": "own/feats_stats.npz"}
    assert describe(input_size=None, normalize_conf=own)["normalize_conf"] == own


def test_statistics_are_kept_beside_the_model(describe, tmp_path):
    stats = describe()["normalize_conf"]["stats_file"]
    assert stats == str(tmp_path / "base/feats_stats.npz")
    assert (tmp_path / "base/feats_stats.npz").read_bytes() == (
        tmp_path / "train/feats_stats.npz"
    ).read_bytes()


def test_lost_statistics_are_refused_with_the_command_that_makes_them(describe, tmp_path):
    (tmp_path / "train/feats_stats.npz").unlink()
    with pytest.raises(
        DataError, match="feats_stats.npz: no such file; 'adaptkit feats' writes it with --cmvn"
    ):
        describe()


def test_options_of_espnets_own_training_are_said_to_be_unused(describe, caplog):
    with caplog.at_level(logging.INFO):
        describe()
    assert "not used, base.train replaces them: max_epoch, optim" in caplog.text
