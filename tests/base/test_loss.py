"""The loss from what leaves the encoder against ESPnet's own of the whole model."""

from types import SimpleNamespace

import pytest
import torch

from adaptkit.base.loss import has_inner_ctc, loss_from_encoded
from adaptkit.base.padding import ignoring_padding
from adaptkit.errors import CheckpointError

DECODER = {"attention_heads": 2, "linear_units": 16, "num_blocks": 1}
TRANSDUCER = {
    "decoder": "transducer",
    "decoder_conf": {"hidden_size": 8},
    "joint_net_conf": {"joint_space_size": 8},
}
BLOCK_OF_CTC = {"output_size": 16, "num_blocks": 2, "attention_heads": 2, "linear_units": 24}


def both(model, batch):
    """Return ESPnet's loss, and the one computed from its encoder's output."""
    tokens, lengths = batch.tokens.clone(), batch.token_lengths.clone()  # ESPnet changes both in place
    with torch.no_grad(), ignoring_padding(model):
        expected, _, _ = model(batch.inputs.clone(), batch.lengths, tokens, lengths)
        encoded, frames = model.encode(batch.inputs.clone(), batch.lengths)
    encoded = encoded[0] if isinstance(encoded, tuple) else encoded
    found = loss_from_encoded(
        model, encoded, frames=frames, tokens=batch.tokens, token_lengths=batch.token_lengths
    )
    return expected.squeeze(), found


@pytest.mark.parametrize("weight", [0.0, 0.3])
def test_loss_of_a_transducer_is_that_of_the_whole_model(new_base, new_batch, weight):
    base = new_base(**TRANSDUCER, model_conf={"ctc_weight": weight})
    expected, found = both(base.model, new_batch((0, 1, 2)))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_loss_is_that_of_the_whole_model(new_base, new_batch, weight):
    conf = {"ctc_weight": weight, "lsm_weight": 0.1}
    base = new_base(decoder="transformer", decoder_conf=DECODER, model_conf=conf)
    expected, found = both(base.model, new_batch((0, 1, 2)))
    torch.testing.assert_close(found, expected)


def test_tokens_and_their_lengths_stay_as_they_were(new_base, new_batch):
    batch = new_batch((0, 1, 2))
    tokens, lengths = batch.tokens.clone(), batch.token_lengths.clone()
    base = new_base(decoder="transformer", decoder_conf=DECODER, model_conf={"ctc_weight": 0.3})
    both(base.model, batch)
    assert torch.equal(batch.tokens, tokens)
    assert torch.equal(batch.token_lengths, lengths)


def test_intermediate_ctc_leaves_the_part_of_the_last_block(new_base, new_batch):
    conf = {**BLOCK_OF_CTC, "interctc_layer_idx": [1], "interctc_use_conditioning": True}
    model = new_base(encoder_conf=conf, model_conf={"ctc_weight": 1.0, "interctc_weight": 0.3}).model
    batch = new_batch((0, 1, 2))
    expected, found = both(model, batch)
    with torch.no_grad(), ignoring_padding(model):
        (_, ((_, inner),)), frames = model.encode(batch.inputs.clone(), batch.lengths)
        left_out = model.ctc(inner, frames, batch.tokens, batch.token_lengths)
    torch.testing.assert_close(found, expected - 0.3 * left_out)
    assert has_inner_ctc(model)


def test_a_weight_of_intermediate_ctc_without_such_blocks_does_nothing(new_base, new_batch):
    model = new_base(model_conf={"ctc_weight": 1.0, "interctc_weight": 0.3}).model
    expected, found = both(model, new_batch((0, 1, 2)))
    torch.testing.assert_close(found, expected)
    assert not has_inner_ctc(model)


def test_a_linear_decoder_is_refused():
    model = SimpleNamespace(use_linear_decoder=True)
    x, lengths = torch.zeros(1, 5, 4), torch.tensor([5])
    with pytest.raises(CheckpointError, match="a linear decoder, which classifies"):
        loss_from_encoded(model, x, frames=lengths, tokens=x, token_lengths=lengths)
