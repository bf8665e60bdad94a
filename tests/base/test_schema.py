"""What adaptkit reads of ESPnet's config.yaml: types, sizes and bounds, before anything is allocated."""

import math
import tracemalloc

import pytest
import torch

from adaptkit.base import build, checkpoint, schema
from adaptkit.config import read_yaml, write_yaml
from adaptkit.errors import AdaptkitError, CheckpointError, ConfigError
from adaptkit.tensors import AllocationLimit
from tests.fixtures.models import CONFORMER


@pytest.fixture
def folder(base, tmp_path):
    """A base model on disk that a test may damage."""
    checkpoint.save(tmp_path, base.config, base.model.state_dict())
    return tmp_path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder_conf": 5}, "encoder_conf: Input should be a valid dictionary"),
        ({"encoder": None}, "encoder: "),
        ({"encoder": ["conformer"]}, "encoder: Input should be a valid string"),
        ({"input_size": 10**9}, "input_size: Input should be less than or equal to 65536"),
        ({"input_size": True}, "input_size: Input should be a valid integer"),
        (
            {"token_list": ["<blank>", []]},
            r"token_list: token 1 is \[\], expected a string; put it in quotes",
        ),
        ({"token_list": ["<blank>", 5]}, "token_list: token 1 is 5, expected a string"),
        ({"token_list": ["<blank>", ""]}, "token_list: token 1 is ''"),
        ({"token_list": {"a": 1}}, "token_list: expected a list of tokens"),
        ({"token_list": ["<blank>", "A", "A"]}, "token_list: duplicate tokens: A;"),
        ({"bpemodel": 5}, "bpemodel: Input is not a valid path"),
        ({"bpemodel": "a" * 300}, "bpemodel: expected a path without NUL characters"),
        ({"bpemodel": "a\0b"}, "bpemodel: expected a path"),
        ({"bpemodel": "/dev/zero"}, "bpemodel /dev/zero does not exist; copy it to .*/zero"),
        ({"normalize_conf": {"stats_file": 5}}, "stats_file: expected the path of a file, found 5"),
        ({"normalize_conf": {"eps": math.nan}}, "eps: expected a number from"),
        ({"encoder_conf": {**CONFORMER, "attention_heads": 0}}, "attention_heads: expected a number from 1"),
        ({"encoder_conf": {**CONFORMER, "attention_heads": True}}, "attention_heads: expected an integer"),
        ({"encoder_conf": {**CONFORMER, "num_blocks": 10**9}}, "num_blocks: expected a number from 1 to 512"),
        ({"encoder_conf": {**CONFORMER, "output_size": "wide"}}, "output_size: expected an integer from 1"),
        ({"encoder_conf": {**CONFORMER, "output_size": 2**16, "linear_units": 2**18}}, "more than .* GiB"),
        ({"encoder_conf": {**CONFORMER, "input_layer": "embed"}}, "ESPnet|configuration"),
        ({"ctc_conf": {"ctc_type": "sparse"}}, "ctc_conf: CTC rejects"),
        ({"ctc_conf": {"a": [[[[[1]]]]]}}, "a: more than 4 levels"),
        ({"adaptkit": {"features": {"num_bins": 10**9}}}, "adaptkit.features: num_bins: expected a number"),
        ({"adaptkit": {"features": {"num_bins": 40}}}, "features of 20 bins, but .*num_bins is 40"),
        ({"adaptkit": 5}, "adaptkit: "),
        ({"frontend_conf": {"fs": "fast"}}, "fs: expected a sampling rate such as 16000 or 16k"),
    ],
)
def test_a_configuration_that_no_model_has_is_refused(folder, changes, message):
    write_yaml(folder / "config.yaml", {**read_yaml(folder / "config.yaml"), **changes})
    with pytest.raises(AdaptkitError, match=message):
        checkpoint.load(folder)


def test_every_problem_of_a_configuration_comes_in_one_message(model_config):
    wrong = model_config() | {"encoder_conf": 5, "bpemodel": 3}
    with pytest.raises(ConfigError, match=r"config.yaml: 2 problems"):
        schema.check(wrong, "config.yaml")


def test_a_model_that_cannot_run_is_refused(folder, model_config, tmp_path):
    speech = {"input_size": None, "frontend": "default", "normalize": "utterance_mvn", "normalize_conf": {}}
    conf = {"fs": 8000, "n_fft": 256, "n_mels": 20}
    described = model_config(**speech, frontend_conf=conf, adaptkit=None)
    checkpoint.save(folder, described, build.build(described).state_dict())
    assert checkpoint.load(folder).rate_hz == 8000
    write_yaml(folder / "config.yaml", {**described, "frontend_conf": {**conf, "win_length": 512}})
    with pytest.raises(CheckpointError, match="the model that it describes does not run"):
        checkpoint.load(folder)


def test_sizes_are_refused_before_memory_is_taken():
    tracemalloc.start()
    with pytest.raises(ConfigError, match="too large"), AllocationLimit(10**6, ConfigError("too large")):
        torch.nn.Linear(10**5, 10**5)
    assert tracemalloc.get_traced_memory()[1] < 10**6
    tracemalloc.stop()
    with AllocationLimit(10**6, ConfigError("too large")):
        assert torch.nn.Linear(100, 100).weight.shape == (100, 100)
