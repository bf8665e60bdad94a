"""Names of weights that do not depend on the version of ESPnet."""

import copy
import pickle

import pytest
import torch
from torch import nn

from adaptkit.base import checkpoint, names
from adaptkit.errors import CheckpointError
from tests.fixtures.models import CONFORMER, E_BRANCHFORMER

POSITIONS = {"pos_enc_layer_type": "scaled_abs_pos"}  # with a weight


class Conv2dSubsampling(nn.Module):
    """The layers of ESPnet 202611's class of this name, which `encoder.embed` is."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Linear(2, 3)
        self.out = nn.Linear(3, 4)
        self.pos_enc = nn.LayerNorm(4)

    def forward(self, x):
        x = self.out(self.conv(x))
        return self.pos_enc(x[:, : x.size(1)])


def newer(weights):
    """The weights as ESPnet 202611 names them."""
    new = {"embed.out.0.": "embed.out.", "embed.out.1.": "embed.pos_enc."}
    renamed = {}
    for name, tensor in weights.items():
        for old, now in new.items():
            name = name.replace(old, now)
        renamed[name] = tensor
    return renamed


@pytest.fixture
def scaled(new_base):
    return new_base(encoder_conf={**CONFORMER, **POSITIONS, "selfattention_layer_type": "selfattn"})


@pytest.mark.parametrize(
    ("layer", "own"),
    [
        *((f"conv2d{size}", {"out.0.weight", "out.0.bias", "out.1.alpha"}) for size in ("", 1, 2, 6)),
        *((f"conv1d{size}", {"out.0.weight", "out.0.bias", "out.1.alpha"}) for size in (1, 2, 3)),
        ("conv2d8", {"out.weight", "out.bias", "pos_enc.alpha"}),
    ],
)
def test_layers_after_the_convolutions_are_named_as_in_espnet_202511(new_base, layer, own):
    conf = {**E_BRANCHFORMER, **POSITIONS, "attention_layer_type": "selfattn", "input_layer": layer}
    base = new_base(encoder="e_branchformer", encoder_conf=conf)
    found = {name.removeprefix("encoder.embed.") for name in base.model.state_dict()}
    assert {name for name in found if name.startswith(("out", "pos_enc"))} == own
    assert {f"encoder.embed.{name}" for name in own} <= {site.name for site in base.sites}


def test_weights_of_either_version_load_to_the_same_output_and_fingerprint(
    scaled, new_batch, encode, tmp_path
):
    weights = scaled.model.state_dict()
    assert newer(weights).keys() != weights.keys()
    checkpoint.save(tmp_path, scaled.config, newer(weights))
    loaded = checkpoint.load(tmp_path)
    assert loaded.fingerprint == scaled.fingerprint
    assert torch.equal(encode(loaded, None, new_batch((0, 0))), encode(scaled, None, new_batch((0, 0))))


def test_a_missing_weight_is_missed_under_either_name(scaled, tmp_path):
    weights = newer(scaled.model.state_dict())
    del weights["encoder.embed.out.bias"]
    checkpoint.save(tmp_path, scaled.config, weights)
    with pytest.raises(CheckpointError, match=r"missing: encoder\.embed\.out\.0\.bias$"):
        checkpoint.load(tmp_path)


def test_a_file_with_both_names_of_one_weight_is_refused(scaled, tmp_path):
    weights = scaled.model.state_dict()
    checkpoint.save(tmp_path, scaled.config, {**weights, **newer(weights)})
    with pytest.raises(CheckpointError, match=r"model\.pth: has both encoder\.embed\.out\.weight and"):
        checkpoint.load(tmp_path)


def test_a_model_itself_takes_both_spellings(scaled, assert_same):
    weights, twin = scaled.model.state_dict(), copy.deepcopy(scaled.model)
    for given in (weights, newer(weights)):
        nn.init.zeros_(twin.get_parameter("encoder.embed.out.0.weight"))
        twin.load_state_dict(given)
        assert_same(twin.state_dict(), weights)


def test_adopted_layers_of_espnet_202611_compute_the_same_in_copies_too():
    torch.manual_seed(0)
    model, x = nn.ModuleDict({"embed": Conv2dSubsampling()}), torch.randn(1, 5, 2)
    expected, weights = model["embed"](x), copy.deepcopy(model.state_dict())
    names.adopt(model)
    copied, pickled = copy.deepcopy(model), pickle.loads(pickle.dumps(model))
    nn.init.zeros_(model["embed"].out[1].weight)
    assert torch.equal(copied["embed"](x), expected)
    assert torch.equal(pickled["embed"](x), expected)
    assert newer(copied.state_dict()).keys() == weights.keys()
    assert not torch.equal(model["embed"](x), expected)
