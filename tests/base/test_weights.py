"""Other weights for a while: they act in every kind of module, and leave nothing behind."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from adaptkit.base.weights import changed, leaving_no_trace
from adaptkit.model.adapted import AdaptedModel

DECODERS = {
    "transformer": {"attention_heads": 2, "linear_units": 16, "num_blocks": 1},
    "rnn": {"hidden_size": 8, "att_conf": {"adim": 8}},
}


def noise(model, scale=0.1):
    """A difference to every parameter."""
    torch.manual_seed(3)
    return {name: scale * torch.randn_like(parameter) for name, parameter in model.named_parameters()}


def added(model, differences):
    """A copy of the model with the sums in its own parameters."""
    twin = copy.deepcopy(model)
    for name, parameter in twin.named_parameters():
        parameter.data += differences[name]
    return twin


class Tied(nn.Module):
    """Two maps with one weight."""

    def __init__(self):
        super().__init__()
        self.one, self.other = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
        self.other.weight = self.one.weight

    def forward(self, x):
        return self.other(self.one(x))


def test_a_map_computes_with_the_sum_by_hand():
    model = nn.Sequential(nn.Linear(2, 1, bias=False))
    model[0].weight.data = torch.tensor([[1.0, 2.0]])
    x = torch.tensor([[3.0, 5.0]])
    with changed(model, {"0.weight": torch.tensor([[0.5, -1.0]])}):
        assert model(x).item() == 1.5 * 3 + 1.0 * 5
    assert model(x).item() == 1.0 * 3 + 2.0 * 5


def test_a_weight_that_two_modules_share_changes_in_both():
    model, x = Tied(), torch.randn(3, 2)
    differences = noise(model)
    assert list(differences) == ["one.weight"]
    with changed(model, differences):
        found = model(x)
    assert torch.equal(found, added(model, differences)(x))


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_modules_compute_with_the_sum_and_then_with_their_own(kind):
    model, x = kind(3, 4, num_layers=2, bidirectional=True).requires_grad_(False), torch.randn(5, 2, 3)
    differences, before = noise(model), model(x)[0]
    with changed(model, differences):
        found = model(x)[0]
    assert torch.equal(found, added(model, differences)(x)[0])
    assert torch.equal(model(x)[0], before)


def test_gradients_reach_the_differences_of_a_recurrent_module():
    model = nn.LSTM(3, 4).requires_grad_(False)
    differences = {name: torch.zeros_like(p, requires_grad=True) for name, p in model.named_parameters()}
    with changed(model, differences):
        model(torch.randn(5, 2, 3))[0].sum().backward()
    assert all(difference.grad.any() for difference in differences.values())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_gradients_are_those_of_finite_differences_in_float64():
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)).double().requires_grad_(False)
    differences = {name: d.requires_grad_() for name, d in noise(model).items()}
    x = torch.randn(4, 2, dtype=torch.float64)

    def compute(*weights):
        with changed(model, dict(zip(differences, weights, strict=True))):
            return model(x)

    assert torch.autograd.gradcheck(compute, tuple(differences.values()))


@pytest.mark.parametrize("has_failed", [False, True])
def test_the_parameters_are_put_back_unwritten(has_failed):
    model = nn.Sequential(nn.Linear(2, 3), nn.LSTM(3, 2))
    before = [(id(parameter), parameter._version) for parameter in model.parameters()]
    x = torch.randn(4, 7 if has_failed else 2)
    try:
        with changed(model, noise(model)):
            model(x)
    except RuntimeError:
        assert has_failed
    assert before == [(id(parameter), parameter._version) for parameter in model.parameters()]
    assert [id(weight) for weight in model[1]._flat_weights] == [
        id(weight) for weight in model[1].parameters()
    ]


def test_a_name_that_the_model_lacks_is_refused_with_nothing_changed():
    model = nn.Linear(2, 2)
    weight = model.weight
    with (
        pytest.raises(AttributeError, match="nowhere"),
        changed(model, {"weight": torch.ones(2, 2), "nowhere": torch.ones(1)}),
    ):
        pass
    assert model.weight is weight


@pytest.mark.parametrize("decoder", DECODERS)
def test_every_parameter_of_a_recogniser_acts_as_if_it_were_its_own(new_base, new_batch, decoder):
    model_conf = {"ctc_weight": 0.3}
    base = new_base(decoder=decoder, decoder_conf=DECODERS[decoder], model_conf=model_conf)
    differences, batch = noise(base.model), new_batch((-1, -1))
    twin = replace(base, model=added(base.model, differences))
    with torch.no_grad(), changed(base.model, differences):
        found = AdaptedModel(base).eval()(batch)
    assert torch.equal(found, AdaptedModel(twin).eval()(batch))


def test_every_parameter_of_an_encoder_acts_as_if_it_were_its_own(variant, new_batch, encode):
    differences, batch = noise(variant.model), new_batch((-1, -1))
    twin = replace(variant, model=added(variant.model, differences))
    with changed(variant.model, differences):
        found = encode(variant, None, batch)
    assert torch.equal(found, encode(twin, None, batch))


def encode_ones(model):
    with torch.no_grad():
        return model.encode(torch.ones(1, 60, 20), torch.tensor([60]))[0]


def test_a_pass_in_bfloat16_does_not_round_the_positions_of_the_next(new_base):
    model = new_base().model
    with leaving_no_trace(model):
        before = encode_ones(model)
        with torch.autocast("cpu", torch.bfloat16):
            encode_ones(model)
        assert torch.equal(encode_ones(model), before)


def test_attention_weights_are_let_go_of(new_base):
    model = new_base().model
    with leaving_no_trace(model):
        encode_ones(model)
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
        assert torch.equal(encode_ones(model), encode_ones(model))
