"""OWSM models: their prompts, padding and losses, against ESPnet's own inference."""

import copy

import pytest
import torch
from torch import Tensor

from adaptkit.base import build
from adaptkit.base import checkpoint as base_checkpoint
from adaptkit.data.batches import Batch
from adaptkit.errors import ConfigError, DataError
from adaptkit.experiment import Prompt
from adaptkit.model.adapted import AdaptedModel
from adaptkit.tokens import bpe_tokens

SEC = 4  # in place of 30, to be fast
TEXTS = ("AB", "C A", "BA", "ABC", "CC", "B", "CAB", "A B")
MARKS = ("<na>", "<nospeech>", "<eng>", "<deu>", "<asr>", "<st_deu>", "<notimestamps>")
TIMES = ("<0.00>", "<1.00>", "<2.00>", "<3.00>", "<4.00>")
SIZES = {"attention_heads": 2, "linear_units": 24, "num_blocks": 2}
GATED = {"output_size": 16, "cgmlp_linear_units": 24, "cgmlp_conv_kernel": 7, "merge_conv_kernel": 7}


@pytest.fixture(scope="module")
def described(tmp_path_factory):
    """A tiny OWSM model's config.yaml; keywords replace keys."""
    path = tmp_path_factory.mktemp("tokens") / "bpe.model"
    pieces = bpe_tokens(TEXTS, 12, path).tokens[2:-1]

    def describe(**changes):
        return build.complete(
            {
                "frontend": "default",
                "frontend_conf": {"fs": 8000, "n_fft": 256, "hop_length": 80, "n_mels": 20},
                "normalize": "utterance_mvn",
                "encoder": "e_branchformer",
                "encoder_conf": {
                    **SIZES,
                    **GATED,
                    "attention_layer_type": "selfattn",
                    "pos_enc_layer_type": "abs_pos",
                    "macaron_ffn": True,
                    "use_ffn": True,
                    "gradient_checkpoint_layers": [0, 1, 2],
                },
                "decoder": "transformer",
                "decoder_conf": {**SIZES, "gradient_checkpoint_layers": [1, 2]},
                "model": "espnet",
                "model_conf": {"ctc_weight": 0.3, "lsm_weight": 0.1, "sym_na": "<na>"},
                "preprocessor": "s2t",
                "preprocessor_conf": {
                    "fs": 8000,
                    "na_symbol": "<na>",
                    "speech_length": SEC,
                    "notime_symbol": "<notimestamps>",
                    "first_time_symbol": "<0.00>",
                    "last_time_symbol": "<4.00>",
                },
                "token_type": "bpe",
                "bpemodel": str(path),
                "token_list": ["<blank>", "<unk>", *MARKS, *TIMES, *pieces, "<sop>", "<sos>", "<eos>"],
                **changes,
            }
        )

    return describe


@pytest.fixture(scope="module")
def owsm_dir(described, tmp_path_factory):
    """The folder of a tiny OWSM model; not to be changed."""
    folder = tmp_path_factory.mktemp("owsm")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build.build(described())
        for module in model.modules():
            if isinstance(module, torch.nn.LayerNorm):
                module.weight.data.uniform_(0.7, 1.3)
        model.ctc.ctc_lo.weight.data.mul_(10)
        model.decoder.output_layer.weight.data.mul_(5)
    base_checkpoint.save(folder, described(), model.state_dict())
    return folder


@pytest.fixture(scope="module")
def owsm(owsm_dir):
    """The tiny OWSM model, prompted for English; not to be changed."""
    return base_checkpoint.load(owsm_dir)


@pytest.fixture
def speech_batch(owsm):
    """Noise of four utterances of different lengths, with texts."""
    lengths = torch.tensor([20000, 32000, 9000, 15000])
    inputs = torch.randn(4, 32000, generator=torch.Generator().manual_seed(0))
    inputs = inputs.masked_fill(torch.arange(32000) >= lengths[:, None], 0.0)
    ids = [owsm.tokens.encode(text) for text in TEXTS[:4]]
    tokens = torch.nn.utils.rnn.pad_sequence(
        [torch.tensor(row) for row in ids], batch_first=True, padding_value=-1
    )
    counts = torch.tensor([len(row) for row in ids])
    return Batch(("a", "b", "c", "d"), (0, 1, 2, 0), inputs, lengths, tokens, counts)


def espnet_loss(base, batch: Batch, tokens: list[str], *, has_transcript: bool = True) -> Tensor:
    """ESPnet's own loss of a batch, padded and prompted by hand as its S2TPreprocessor does."""
    model = copy.deepcopy(base.model)
    model.frontend._forward_pre_hooks.clear()
    ids = base.config["token_list"].index
    speech = torch.nn.functional.pad(batch.inputs, (0, 8000 * SEC - batch.inputs.shape[1]))
    prompt = torch.tensor([[ids(token) for token in tokens]] * 4)
    nothing, one = torch.full((4, 1), ids("<na>")), torch.ones(4, dtype=torch.long)
    transcript = (batch.tokens.clone(), batch.token_lengths) if has_transcript else (nothing, one)
    text = torch.cat([prompt, batch.tokens], dim=1), batch.token_lengths + len(tokens)
    loss, _, _ = model(speech, torch.full((4,), 8000 * SEC), *text, nothing, one, *transcript)
    return loss.squeeze()


def test_padding_prompt_and_transcript_of_the_loss_are_those_of_espnet(owsm, speech_batch):
    adapted = AdaptedModel(owsm, is_frozen=True).eval()
    with torch.no_grad(), adapted.hooked():
        found = adapted.loss(speech_batch)
        expected = espnet_loss(owsm, speech_batch, ["<eng>", "<asr>", "<notimestamps>"])
    torch.testing.assert_close(found, expected)


def test_translations_teach_the_decoder_alone(owsm_dir, speech_batch):
    base = base_checkpoint.load(owsm_dir, prompt=Prompt(language="eng", task="st_deu"))
    adapted = AdaptedModel(base, is_frozen=True).eval()
    prompt = ["<eng>", "<st_deu>", "<notimestamps>"]
    with torch.no_grad(), adapted.hooked():
        found = adapted.loss(speech_batch)
        expected = espnet_loss(base, speech_batch, prompt, has_transcript=False)
    torch.testing.assert_close(found, expected)


def test_a_prompt_is_part_of_the_fingerprint(owsm, owsm_dir):
    german = base_checkpoint.load(owsm_dir, prompt=Prompt(language="<deu>"))
    assert owsm.fingerprint.removesuffix("-eng-asr") == german.fingerprint.removesuffix("-deu-asr")


def test_a_row_of_a_batch_is_the_utterance_alone(owsm, speech_batch):
    adapted = AdaptedModel(owsm, is_frozen=True).eval()
    with torch.no_grad(), adapted.hooked():
        together, frames = adapted.encode(speech_batch)
        alone = [adapted.encode(speech_batch.rows([row]))[0][0] for row in range(4)]
    torch.testing.assert_close(together, torch.stack(alone), rtol=1e-5, atol=1e-5)
    assert frames.tolist() == [together.shape[1]] * 4


def test_more_than_thirty_seconds_are_refused(owsm, speech_batch):
    with pytest.raises(DataError, match="speech of 4.12 s: an OWSM model reads at most 4 s at once"):
        owsm.model.encode(torch.zeros(1, 33000), torch.tensor([33000]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"prompt": {"language": "enk"}},
            "'enk' is no language of the model, did you mean 'eng'.; known: eng, deu",
        ),
        ({"prompt": {"task": "st_fra"}}, "'st_fra' is no task of the model.*known: asr, st_deu"),
        ({"prompt": {"times": True}}, "adaptkit.prompt.times"),
    ],
)
def test_a_prompt_without_tokens_is_refused_with_those_there_are(described, change, message):
    with pytest.raises(ConfigError, match=message):
        build.build(described(adaptkit=change))


@pytest.mark.parametrize(
    "lost",
    [{"preprocessor": None}, {"model_conf": {"ctc_weight": 0.3}}, {"preprocessor": None, "model_conf": {}}],
)
def test_a_configuration_that_lost_a_sign_is_still_no_asr_model(described, lost):
    assert type(build.build(described(**lost))).__name__ == "ESPnetS2TModel"


@pytest.mark.parametrize(
    "sign", [{"preprocessor": "s2t_ctc"}, {"model": "espnet_ctc"}, {"promptencoder": "transformer"}]
)
def test_owsm_ctc_is_refused(described, sign):
    with pytest.raises(ConfigError, match="espnet2.tasks.s2t_ctc .OWSM-CTC., which adaptkit does not run"):
        described(**sign)
