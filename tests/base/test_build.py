"""Building ESPnet's model from its own configuration."""

import importlib.util
import re
from pathlib import Path

import pytest
import torch

from adaptkit.base import build, classes
from adaptkit.errors import ConfigError


def test_what_a_training_yaml_leaves_out_is_filled_as_espnet_does():
    filled = build.complete({"input_size": None, "token_list": ["<blank>"]})
    assert (filled["frontend"], filled["normalize"], filled["encoder"]) == ("default", "utterance_mvn", "rnn")
    assert filled["encoder_conf"] == {}


def test_a_model_of_features_has_no_frontend():
    assert build.complete({"input_size": 80, "frontend": "default"})["frontend"] is None


def test_an_unknown_option_is_refused_with_the_nearest(model_config):
    wrong = model_config(encoder_conf={"output_sise": 16})
    with pytest.raises(ConfigError, match=r"encoder_conf\.output_sise: .* did you mean 'output_size'\?"):
        build.build(wrong)


@pytest.mark.parametrize(
    ("section", "wrong"),
    [
        ("encoder_conf", {"macaron_style": "wide"}),  # of another type
        ("encoder_conf", {"rel_pos_type": "newest"}),  # no such choice
        ("encoder_conf", {"output_size": 16, "attention_heads": 3}),  # 16 is no multiple of 3
        ("model_conf", {"ctc_weight": 2.0}),
        ("model_conf", {"ctc_weight": 0.5}),  # needs a decoder
        ("normalize_conf", {}),  # global_mvn needs its file
    ],
)
def test_a_bad_value_is_refused_with_the_options_seen(model_config, section, wrong):
    with pytest.raises(ConfigError, match=f"{section}: .* rejects"):
        build.build(model_config(**{section: wrong}))


def test_espnet_does_not_measure_error_rates_of_its_own(base):
    assert base.model.error_calculator is None


def test_every_weight_and_statistic_is_float32(base):
    kinds = {t.dtype for name, t in base.model.state_dict().items() if "num_batches_tracked" not in name}
    assert kinds == {torch.float32}


def test_an_attention_decoder_is_built_where_ctc_is_not_all(new_base):
    conf = {"attention_heads": 2, "linear_units": 16, "num_blocks": 1}
    built = new_base(decoder="transformer", decoder_conf=conf, model_conf={"ctc_weight": 0.3})
    assert type(built.model.decoder).__name__ == "TransformerDecoder"


def test_an_option_of_a_newer_espnet_is_left_out_only_if_it_changes_nothing(model_config):
    conf = {"num_layers": 1, "hidden_size": 8}  # of a class that has no use_sdpa in any version
    rnn = {"decoder": "rnn", "model_conf": {"ctc_weight": 0.3}}
    built = build.build(model_config(**rnn, decoder_conf={**conf, "use_sdpa": False}))
    assert type(built.decoder).__name__ == "RNNDecoder"
    with pytest.raises(ConfigError, match="use_sdpa: .* came with ESPnet 202611; set it to False"):
        build.build(model_config(**rnn, decoder_conf={**conf, "use_sdpa": True}))


def test_classes_are_found_where_either_espnet_has_them():
    path = "espnet.nets.batch_beam_search.BatchBeamSearch"
    assert classes.import_class(path).__name__ == "BatchBeamSearch"


def test_another_implementation_of_ctc_is_read_as_the_builtin_one(model_config, caplog):
    caplog.set_level("INFO")
    built = build.build(model_config(ctc_conf={"ctc_type": "warpctc"}))
    assert built.ctc.ctc_type == "builtin"
    assert "ctc_conf.ctc_type: warpctc is read as builtin" in caplog.text


def test_every_option_of_espnets_own_task_is_built_refused_or_needs_trust():
    file = Path(importlib.util.find_spec("espnet2").submodule_search_locations[0]) / "tasks/asr.py"
    text = file.read_text()  # importing it takes 16 s
    for section in classes.CLASSES:
        choices = text.partition(f"\n{section}_choices = ClassChoices(")[2].partition("type_check")[0]
        options = set(re.findall(r"(\w+)=\w+,", choices.partition("dict(")[2]))
        known = [part.get(section, {}) for part in (classes.CLASSES, classes.REFUSED, classes.UNTRUSTED)]
        assert options == set().union(*known), section
        assert len(options) == sum(map(len, known)), section
