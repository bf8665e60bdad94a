"""What ESPnet does to speech and texts before the model: the same here, or refused with the reason."""

import os
from dataclasses import replace

import numpy as np
import pytest
import torch

from adaptkit.base import checkpoint, preprocessor
from adaptkit.base.archive import own_files
from adaptkit.data.dataset import read_examples
from adaptkit.errors import AdaptkitError, CheckpointError, ConfigError

TOKENS = ["<blank>", "<unk>", "<space>", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ", "<NOISE>", "<sos/eos>"]
SPEECH = {"input_size": None, "frontend_conf": {"fs": 8000, "n_mels": 20}, "adaptkit": None}


@pytest.fixture
def read(tmp_path):
    """Read the preprocessor of a configuration."""
    return lambda **config: preprocessor.read(
        {"token_list": TOKENS, "token_type": "char", **config}, own_files(tmp_path)
    )


@pytest.mark.parametrize("place", ["top", "preprocessor_conf"])
def test_speech_is_scaled_to_the_peak_as_espnet_does(read, place):
    option = {"speech_volume_normalize": 0.7}
    prepared = read(**(option if place == "top" else {"preprocessor_conf": option}))
    speech = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    samples = speech.numpy()
    assert np.array_equal(prepared.scale(speech).numpy(), samples * 0.7 / np.max(np.abs(samples)))


def test_silence_and_models_without_a_peak_leave_speech_as_it_is(read):
    silence, speech = torch.zeros(10), torch.tensor([0.1, -0.2])
    assert torch.equal(read(speech_volume_normalize=0.5).scale(silence), silence)
    assert torch.equal(read().scale(speech), speech)
    assert torch.equal(read(speech_volume_normalize=0.5, use_preprocessor=False).scale(speech), speech)


def test_a_model_scales_what_its_data_set_reads(new_base, corpus):
    base = new_base(**SPEECH)
    scaled = replace(base, preprocessor=preprocessor.Preprocessor(peak=0.5))
    plain, loud = (read_examples(corpus / "data/train", each)[0].inputs for each in (base, scaled))
    assert loud.abs().max() == 0.5
    assert torch.equal(loud, plain * 0.5 / plain.abs().max())


def test_a_peak_of_a_model_that_reads_features_is_refused(base):
    with pytest.raises(CheckpointError, match="speech_volume_normalize scales speech, but the model reads"):
        checkpoint.wrap(base.path, {**base.config, "speech_volume_normalize": 0.5}, base.model)


@pytest.mark.parametrize("given", ["file", "list", "none"])
def test_non_linguistic_symbols_are_one_token(read, tmp_path, given):
    (tmp_path / "nlsyms.txt").write_text("<NOISE>\n[x]\n")
    options = {"file": "data/nlsyms.txt", "list": ["<NOISE>", "[x]"], "none": None}
    spelling = read(non_linguistic_symbols=options[given]).spelling
    tokens = checkpoint.TokenList(tuple(TOKENS), spelling=spelling)
    assert tokens.encode("A <NOISE>B") == [3, 2, TOKENS.index("<NOISE>"), 4]
    assert tokens.decode(tokens.encode("A <NOISE>B")) == "A <NOISE>B"
    assert spelling.symbols == (() if given == "none" else ("[x]",))


def test_a_lost_list_of_symbols_is_replaced_by_the_token_list(read):
    assert read(non_linguistic_symbols="data/nlsyms.txt") == read(non_linguistic_symbols=["<NOISE>"])


def test_words_are_tokens_and_joined_with_spaces(read):
    words = ("<blank>", "<unk>", "hello", "world", "<sos/eos>")
    tokens = checkpoint.TokenList(words, spelling=read(token_type="word").spelling)
    assert tokens.encode("hello  world x") == [2, 3, 1]
    assert tokens.decode([0, 2, 3, 4]) == "hello world"


def test_symbols_and_delimiters_of_a_model_are_followed(read):
    options = {"space_symbol": "|", "unk_symbol": "?", "nonsplit_symbol": ["XY:1"]}
    spelling = read(token_list=[*TOKENS, "|", "?"], preprocessor_conf=options).spelling
    tokens = checkpoint.TokenList(("<blank>", "?", "|", "A", "XY", "<sos/eos>"), spelling=spelling)
    assert tokens.encode("A XYb") == [3, 2, 4, 1]
    assert tokens.decode([3, 2, 4]) == "A XY"
    spelling = read(token_type="word", preprocessor_conf={"delimiter": "_"}).spelling
    assert checkpoint.TokenList(("<blank>", "a b", "c"), spelling=spelling).encode("a b_c") == [1, 2]


@pytest.mark.slow
def test_texts_are_cleaned_as_espnet_does(read):
    spelling = read(cleaner=["tacotron", "jaconv"]).spelling
    tokens = checkpoint.TokenList(tuple(TOKENS), spelling=spelling)
    assert tokens.decode(tokens.encode("jr. & dr.")) == "JUNIOR AND DOCTOR"


@pytest.mark.slow
def test_a_cleaner_whose_package_is_missing_is_named_for_the_first_text(read):
    tokens = checkpoint.TokenList(tuple(TOKENS), spelling=read(cleaner="vietnamese").spelling)
    assert tokens.decode([3]) == "A"
    with pytest.raises(CheckpointError, match="cleaner vietnamese: .*; install underthesea, without which"):
        tokens.encode("A")


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"token_type": "phn", "g2p": "g2p_en"}, "token_type: phn: its tokens are phonemes"),
        ({"token_type": "whisper_en"}, "token_type: whisper_en: .* openai-whisper"),
        ({"token_type": "hugging_face"}, "token_type: hugging_face: .* transformers"),
        ({"token_type": "morpheme"}, "token_type: morpheme: unknown to adaptkit"),
        ({"cleaner": ["tacotron", "soap"]}, "cleaner: soap: unknown; ESPnet has tacotron, jaconv"),
        ({"preprocessor": "multi"}, "preprocessor: multi: not supported"),
        ({"preprocessor_conf": {"speech_volume_normalise": 1}}, "did you mean 'speech_volume_normalize'"),
        ({"preprocessor_conf": {"unk_symbol": "?"}}, "unk_symbol: .*: not in the token list"),
        ({"use_lang_prompt": True}, "use_lang_prompt: a prompt of Whisper's tokens"),
    ],
)
def test_what_cannot_be_followed_is_refused(read, config, expected):
    with pytest.raises(CheckpointError, match=expected.replace("?", "[?]")):
        read(**config)


@pytest.mark.parametrize(
    "config",
    [
        {"speech_volume_normalize": -1},
        {"speech_volume_normalize": "loud"},
        {"preprocessor_conf": {"speech_volume_normalize": True}},
        {"preprocessor_conf": {"space_symbol": 1}},
        {"preprocessor_conf": {"nonsplit_symbol": "abc"}},
        {"cleaner": 3},
        {"non_linguistic_symbols": {"a": 1}},
    ],
)
def test_settings_of_a_wrong_type_are_refused(model_config, config):
    with pytest.raises(ConfigError, match="problem"):
        model_config(**config)


def test_what_only_training_uses_is_ignored(read):
    conf = {"fs": 16000, "rir_scp": "rirs", "noise_scp": "noises", "data_aug_prob": 0.5}
    assert read(preprocessor_conf=conf, g2p="g2p_en") == read()


@pytest.mark.parametrize(
    "change",
    [
        {"preprocessor_conf": {"space_symbol": "A"}},
        {"cleaner": "tacotron"},
        {"non_linguistic_symbols": ["XY"]},
        {"preprocessor_conf": {"unk_symbol": "A"}},
        {"preprocessor_conf": {"delimiter": "_"}},
    ],
)
def test_what_changes_texts_changes_the_fingerprint(base, change):
    config = {**base.config, "token_type": "char"}
    plain, changed = (checkpoint.wrap(base.path, each, base.model) for each in (config, {**config, **change}))
    assert plain.fingerprint != changed.fingerprint


def test_the_peak_of_speech_changes_the_fingerprint_and_defaults_do_not(new_base):
    base = new_base(**SPEECH)
    defaults = {"preprocessor": "default", "preprocessor_conf": {}, "cleaner": None, "use_preprocessor": True}
    same = checkpoint.wrap(
        base.path, {**base.config, **defaults, "speech_volume_normalize": None}, base.model
    )
    other = checkpoint.wrap(base.path, {**base.config, "speech_volume_normalize": 0.5}, base.model)
    assert same.fingerprint == base.fingerprint != other.fingerprint


def test_a_lost_symbol_file_is_no_regular_file(read, tmp_path):
    os.mkfifo(tmp_path / "nlsyms.txt")
    assert read(non_linguistic_symbols="nlsyms.txt").spelling.symbols == ()
    (tmp_path / "list.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(AdaptkitError, match="list.txt: not UTF-8"):
        read(non_linguistic_symbols="list.txt")
