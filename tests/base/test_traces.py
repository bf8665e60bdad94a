"""What a forward pass leaves behind in ESPnet's modules, and no longer does."""

import copy

import pytest
import torch

from adaptkit.base.weights import leaving_no_trace

pytestmark = pytest.mark.espnet


def encode(model):
    with torch.no_grad():
        return model.encode(torch.ones(1, 60, 20), torch.tensor([60]))[0]


def test_a_pass_in_bfloat16_does_not_round_the_positions_of_the_next(new_base):
    model = new_base().model
    with leaving_no_trace(model):
        before = encode(model)
        with torch.autocast("cpu", torch.bfloat16):
            encode(model)
        assert torch.equal(encode(model), before)


def test_attention_weights_are_let_go_of(new_base):
    model = new_base().model
    with leaving_no_trace(model):
        encode(model)
    assert all(block.self_attn.attn is None for block in model.encoder.encoders)


def test_a_model_can_be_copied_after_a_pass_with_gradients(new_base):
    model = new_base().model.requires_grad_(True)
    with leaving_no_trace(model):
        encoded, _ = model.encode(torch.ones(1, 60, 20), torch.tensor([60]))
        copied = copy.deepcopy(model)
    encoded.sum().backward()
    weights = model.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in copied.state_dict().items())


def test_positions_beyond_the_table_are_still_made(new_base):
    conf = {"output_size": 16, "attention_heads": 2, "num_blocks": 1, "max_pos_emb_len": 5}
    model = new_base(encoder_conf={**conf, "rel_pos_type": "latest"}).model
    with leaving_no_trace(model):
        assert torch.equal(encode(model), encode(model))
