"""A batch gives what its utterances give one by one."""

import pytest
import torch

from adaptkit.base import padding
from tests.fixtures.models import BRANCHFORMER, MULTICONV, STREAMING

SPEECH = {
    "input_size": None,
    "adaptkit": None,
    "frontend": "default",
    "frontend_conf": {"fs": 8000, "n_fft": 256, "hop_length": 80, "n_mels": 20},
}


def conformer(**options):
    """Options of a small Conformer with some changed."""
    sizes = {
        "output_size": 16,
        "attention_heads": 2,
        "linear_units": 24,
        "num_blocks": 2,
        "cnn_module_kernel": 7,
    }
    return {"encoder_conf": {**sizes, "rel_pos_type": "latest", **options}}


def branchformer(**options):
    """Options of a small E-Branchformer with some changed."""
    sizes = {"output_size": 16, "attention_heads": 2, "num_blocks": 2, "cgmlp_linear_units": 24}
    return {"encoder": "e_branchformer", "encoder_conf": {**sizes, "cgmlp_conv_kernel": 7, **options}}


LEGACY = {
    "rel_pos_type": "legacy",
    "pos_enc_layer_type": "rel_pos",
    "attention_layer_type": "rel_selfattn",
}
MIXING = {
    "conformer": conformer(),
    "conv2d1": conformer(input_layer="conv2d1"),
    "conv2d2": conformer(input_layer="conv2d2"),
    "conv2d6": conformer(input_layer="conv2d6"),
    "conv2d8": conformer(input_layer="conv2d8"),
    "linear": conformer(input_layer="linear"),
    "conv1d_feed_forward": conformer(positionwise_layer_type="conv1d"),
    "absolute_positions": conformer(selfattention_layer_type="selfattn", pos_enc_layer_type="abs_pos"),
    "interctc": conformer(interctc_layer_idx=[1], interctc_use_conditioning=True),
    "e_branchformer": branchformer(),
    "branchformer_conv1d2": branchformer(input_layer="conv1d2"),
    "branchformer_conv1d3": branchformer(input_layer="conv1d3"),
    "transformer": {
        "encoder": "transformer",
        "encoder_conf": {"output_size": 16, "attention_heads": 2, "linear_units": 24, "num_blocks": 2},
    },
    "branchformer": {"encoder": "branchformer", "encoder_conf": BRANCHFORMER},
    "multiconv": {"encoder": "multiconv_conformer", "encoder_conf": MULTICONV},
    "convolutional_positions": conformer(selfattention_layer_type="selfattn", pos_enc_layer_type="conv"),
    "legacy": conformer(rel_pos_type="legacy"),
    "legacy_causal": conformer(rel_pos_type="legacy", zero_triu=True),
    "legacy_branchformer": {"encoder": "branchformer", "encoder_conf": {**BRANCHFORMER, **LEGACY}},
    "norm_vars": {**conformer(), "normalize": "utterance_mvn", "normalize_conf": {"norm_vars": True}},
    "variances_alone": {
        **conformer(),
        "normalize": "utterance_mvn",
        "normalize_conf": {"norm_means": False, "norm_vars": True},
    },
    "windows": {
        **{**conformer(), **SPEECH, "frontend": "sliding_window", "frontend_conf": {}, "preencoder": "sinc"},
        **{"preencoder_conf": {"out_channels": 128}, "normalize": "utterance_mvn"},
        "normalize_conf": {"norm_vars": True},
    },
    "utterance_mvn": {**conformer(), "normalize": "utterance_mvn", "normalize_conf": {}},
    "speech": {**conformer(), **SPEECH, "normalize": "utterance_mvn", "normalize_conf": {}},
}


def encode_each(model, inputs, lengths):
    """Encode rows one at a time as ESPnet does by itself."""
    encoded = [
        model.encode(row[None, :length].clone(), length[None])
        for row, length in zip(inputs, lengths, strict=True)
    ]
    return [x[0][0] if isinstance(x, tuple) else x[0] for x, _ in encoded]


def encode_together(model, inputs, lengths):
    with padding.ignoring_padding(model):
        encoded, frames = model.encode(inputs.clone(), lengths)
    encoded = encoded[0] if isinstance(encoded, tuple) else encoded
    return [x[:length] for x, length in zip(encoded, frames.tolist(), strict=True)]


@pytest.mark.parametrize("changes", MIXING.values(), ids=MIXING)
def test_a_batch_gives_what_its_utterances_give_one_by_one(new_base, changes):
    model = new_base(**changes).model
    is_speech = model.frontend is not None
    lengths = torch.tensor([9000, 6100, 4001] if is_speech else [90, 61, 37])
    torch.manual_seed(0)
    inputs = 0.1 * torch.randn(3, 9000) if is_speech else 10 + 3 * torch.randn(3, 90, 20)
    with torch.no_grad():
        alone, together = encode_each(model, inputs, lengths), encode_together(model, inputs, lengths)
    assert padding.mixes_lengths(model)
    for one, other in zip(alone, together, strict=True):
        torch.testing.assert_close(other, one, atol=1e-5, rtol=0)


@pytest.mark.parametrize("encoder", ["contextual_block_conformer", "contextual_block_transformer"])
def test_contextual_blocks_refuse_a_batch_of_several_lengths(new_base, encoder):
    model = new_base(encoder=encoder, encoder_conf=STREAMING).model
    assert not padding.mixes_lengths(model)
    inputs, lengths = torch.randn(2, 90, 20), torch.tensor([90, 61])
    with pytest.raises(ValueError, match=r"\[90, 61\] frames in one batch.*one length"):
        encode_together(model, inputs, lengths)


@pytest.mark.parametrize("num_frames", [30, 61, 90])
@pytest.mark.parametrize("encoder", ["contextual_block_conformer", "contextual_block_transformer"])
def test_contextual_blocks_give_a_row_what_it_gives_alone(new_base, encoder, num_frames):
    model = new_base(encoder=encoder, encoder_conf=STREAMING).model
    inputs, lengths = 10 + 3 * torch.randn(3, num_frames, 20), torch.full((3,), num_frames)
    with torch.no_grad():
        alone, together = encode_each(model, inputs, lengths), encode_together(model, inputs, lengths)
    for one, other in zip(alone, together, strict=True):
        torch.testing.assert_close(other, one, atol=1e-5, rtol=0)


def test_gradients_of_a_batch_with_legacy_positions_are_those_of_its_rows(new_base):
    model = new_base(**MIXING["legacy"]).model
    torch.manual_seed(0)
    inputs, lengths = 10 + 3 * torch.randn(2, 90, 20), torch.tensor([90, 61])
    weight = model.encoder.encoders[0].self_attn.linear_pos.weight.requires_grad_(True)
    alone = sum(x.square().sum() for x in encode_each(model, inputs, lengths))
    together = sum(x.square().sum() for x in encode_together(model, inputs, lengths))
    (expected,) = torch.autograd.grad(alone, weight)
    (found,) = torch.autograd.grad(together, weight)
    weight.requires_grad_(False)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", ["conformer", "conv2d6", "conv2d8", "linear", "branchformer_conv1d3"])
@pytest.mark.parametrize("num_frames", [15, 16, 17, 18, 61])
def test_counted_frames_are_those_that_leave_the_encoder(new_base, name, num_frames):
    model = new_base(**MIXING[name]).model
    with torch.no_grad():
        encoded, frames = model.encode(torch.randn(1, num_frames, 20), torch.tensor([num_frames]))
    assert padding.encoder_frames(model.encoder, num_frames) == encoded.shape[1] == int(frames)


FRONTENDS = {
    "default": {"frontend": "default", "frontend_conf": {"n_fft": 256, "hop_length": 80, "n_mels": 20}},
    "uncentred": {"frontend": "default", "frontend_conf": {"n_fft": 256, "hop_length": 80, "center": False}},
    "odd": {"frontend": "default", "frontend_conf": {"n_fft": 255, "hop_length": 80}},
    "sliding_window": {
        "frontend": "sliding_window",
        "frontend_conf": {"win_length": 400, "hop_length": 160},
        "preencoder": "sinc",
        "preencoder_conf": {"out_channels": 128},
    },
    "wav2vec_cnn": {
        "frontend": "wav2vec_cnn",
        "frontend_conf": {
            "norm_mode": "layer_norm",
            "conv_mode": "standard",
            "bias": True,
            "shapes": [[8, 10, 5], [8, 3, 2], [8, 2, 2]],
        },
    },
}


@pytest.fixture(scope="module", params=FRONTENDS)
def listening(request, new_base):
    """A model that reads speech through each frontend."""
    changes = {**SPEECH, **conformer(), "normalize": None, "normalize_conf": {}}
    return new_base(**{**changes, **FRONTENDS[request.param]})


@pytest.mark.parametrize("num_samples", [480, 1599, 1600, 1601, 2003])
def test_counted_features_are_those_of_the_frontend(listening, num_samples):
    frontend = listening.model.frontend
    with torch.no_grad():
        feats, frames = frontend(torch.randn(1, num_samples), torch.tensor([num_samples]))
    assert padding.feature_frames(frontend, num_samples) == feats.shape[1] == int(frames)


def test_speech_shorter_than_a_window_has_no_features(listening):
    assert padding.feature_frames(listening.model.frontend, 5) == 0


def test_rows_of_speech_are_what_they_are_alone_with_each_frontend(listening):
    torch.manual_seed(0)
    inputs, lengths = 0.1 * torch.randn(3, 9000), torch.tensor([9000, 6100, 4001])
    with torch.no_grad():
        alone = encode_each(listening.model, inputs, lengths)
        together = encode_together(listening.model, inputs, lengths)
    for one, other in zip(alone, together, strict=True):
        torch.testing.assert_close(other, one, atol=1e-5, rtol=0)


def test_frames_are_counted_by_hand(base):
    counts = [padding.encoder_frames(base.model.encoder, frames) for frames in (0, 6, 7, 10, 11, 98)]
    assert counts == [0, 0, 1, 1, 2, 23]  # (T - 3) // 2 + 1, twice


@pytest.mark.parametrize(("name", "factor"), [("conv2d6", 6), ("conv2d8", 8), ("linear", 1), ("conv2d1", 1)])
def test_subsampling_is_the_product_of_the_strides(new_base, name, factor):
    assert padding.subsampling(new_base(**MIXING[name]).model.encoder) == factor


def test_hooks_are_gone_afterwards(base):
    with padding.ignoring_padding(base.model):
        pass
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in base.model.modules())


def test_the_method_of_legacy_positions_is_the_class_s_own_afterwards(new_base):
    model = new_base(**MIXING["legacy"]).model
    attention = model.encoder.encoders[0].self_attn
    with padding.ignoring_padding(model):
        outer = attention.rel_shift
        with padding.ignoring_padding(model):
            pass
        assert attention.rel_shift is outer
    assert "rel_shift" not in vars(attention)
