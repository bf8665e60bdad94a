"""Where adapters can act in each encoder, and what they are asked there."""

from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from adaptkit.adapters.api import Adapter, AdapterStack
from adaptkit.adapters.kinds.residual import Config
from adaptkit.adapters.site import SITE_KINDS
from adaptkit.base.sites import attached, find_sites
from adaptkit.errors import CheckpointError

OTHER = ("weight", "bias")  # kinds of which an encoder has any number
EVERY = {kind: 1 if kind == "encoder_out" else 2 for kind in SITE_KINDS if kind not in OTHER}
MACARON = {"ffn_macaron", "ffn_macaron_raw", "ffn_macaron_in", "ffn_macaron_out"}
TRANSFORMER = {"output_size": 16, "attention_heads": 2, "linear_units": 24, "num_blocks": 2}


class Watch(Adapter):
    """Note what it is asked, and change nothing."""

    wants = frozenset(SITE_KINDS)

    def __init__(self):
        super().__init__()
        self.seen, self.passes, self.inputs = [], [], {}

    def adapt(self, site, x_in, x_out):
        self.seen.append((site, x_in.shape, x_out.shape))
        self.inputs.setdefault(site.kind, x_in)  # in the first block: the others read what a norm gave
        return x_out

    def begin(self):
        self.passes.append("begin")

    def end(self):
        self.passes.append("end")


class Lstm(nn.LSTM):
    """An encoder without attention."""

    def __init__(self):
        super().__init__(2, 2)

    def output_size(self):
        return 2


def watch(base, batch, **options):
    """Encode a batch and give what an adapter was asked."""
    member = Watch()
    stack = AdapterStack([member], [Config()], ["a", "b", "c"])
    with torch.no_grad(), attached(base.model, stack, base.sites), stack.for_tasks(batch.task_ids):
        base.model.encode(batch.inputs.clone(), batch.lengths)
    return member


def test_every_site_is_asked_once_in_its_order_with_its_sizes(variant, new_batch):
    seen = watch(variant, new_batch((0, 1))).seen
    in_order = [site for site, _, _ in seen if site.kind != "bias"]
    assert in_order == [site for site in variant.sites if site.kind not in OTHER]
    assert {site for site, _, _ in seen} == {site for site in variant.sites if site.kind != "weight"}
    for site, x_in, x_out in seen:
        assert (x_in[0], x_in[2]) == (2, site.dim_in), site
        assert (x_out[0], x_out[2]) == (2, site.dim_out), site


def test_a_pass_begins_and_ends_once(variant, new_batch):
    assert watch(variant, new_batch((0, 1))).passes == ["begin", "end"]


def test_a_pass_ends_even_if_the_encoder_fails(base):
    member = Watch()
    stack = AdapterStack([member], [Config()], ["a"])
    with pytest.raises(Exception, match="too short"), attached(base.model, stack, base.sites):
        base.model.encode(torch.zeros(1, 5, 20), torch.tensor([5]))
    assert member.passes == ["begin", "end"]


@pytest.mark.parametrize(
    ("changes", "missing"),
    [
        ({}, set()),
        ({"encoder_conf": {"macaron_style": False}}, MACARON),
        ({"encoder_conf": {"use_cnn_module": False, "macaron_style": True}}, set()),
        ({"encoder": "transformer", "encoder_conf": {}}, MACARON),
        ({"encoder": "e_branchformer", "encoder_conf": {}}, MACARON),
        ({"encoder": "branchformer", "encoder_conf": {}}, MACARON),
        ({"encoder": "branchformer", "encoder_conf": {"merge_method": "learned_ave"}}, MACARON),
        ({"encoder": "e_branchformer", "encoder_conf": {"use_ffn": True, "macaron_ffn": True}}, set()),
    ],
)
def test_each_encoder_has_the_kinds_of_site_of_its_blocks(new_base, changes, missing):
    sizes = {"output_size": 16, "attention_heads": 2, "num_blocks": 2}
    if changes:
        changes = {**changes, "encoder_conf": {**sizes, **changes["encoder_conf"]}}
    counts = Counter(site.kind for site in new_base(**changes).sites if site.kind not in OTHER)
    assert counts == {kind: count for kind, count in EVERY.items() if kind not in missing}


def test_sites_of_a_block_stand_in_the_order_of_the_forward_pass(base):
    kinds = [site.kind for site in base.sites if site.block == 0 and site.kind != "bias"]
    macaron = ["ffn_macaron_in", "ffn_macaron_out", "ffn_macaron", "ffn_macaron_raw"]
    ffn = [kind.replace("_macaron", "") for kind in macaron]
    assert kinds == [*macaron, "query", "key", "value", "out", *ffn, "block"]


def test_names_are_paths_in_the_model(variant):
    modules = [site.name for site in variant.sites if site.kind != "weight"]
    assert all(isinstance(variant.model.get_submodule(name), nn.Module) for name in modules)


def test_every_weight_of_the_model_is_a_site_of_its_shape(variant):
    shapes = {site.name: torch.Size(site.shape) for site in variant.sites if site.kind == "weight"}
    assert shapes == {name: parameter.shape for name, parameter in variant.model.named_parameters()}


def test_keys_are_unique_in_a_kind_and_fit_a_module_dict(variant):
    keys = [(site.kind, site.key) for site in variant.sites]
    assert len(set(keys)) == len(keys)
    nn.ModuleDict({key: nn.Identity() for _, key in keys})


def test_every_bias_within_the_encoder_is_a_site(variant):
    sites = {f"{site.name}.bias": (site.dim_out,) for site in variant.sites if site.kind == "bias"}
    weights = variant.model.encoder.named_parameters(prefix="encoder")
    assert sites == {name: tuple(weight.shape) for name, weight in weights if name.endswith(".bias")}


def test_a_bias_of_several_modules_is_no_site(new_base):
    base = new_base()
    norms = base.model.encoder.encoders[0]
    norms.norm_ff.bias = norms.norm_mha.bias
    names = {site.name for site in find_sites(base.model) if site.kind == "bias"}
    assert {"encoder.encoders.0.norm_ff", "encoder.encoders.0.norm_mha"}.isdisjoint(names)
    assert "encoder.encoders.1.norm_ff" in names


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({}, "ffn_macaron"),
        ({}, "ffn"),
        ({"encoder": "transformer", "encoder_conf": TRANSFORMER}, "ffn"),
        ({"encoder": "branchformer", "encoder_conf": {"output_size": 16, "attention_heads": 2}}, "ffn"),
    ],
)
def test_raw_input_of_a_feed_forward_is_that_before_its_norm(new_base, new_batch, changes, kind):
    inputs = watch(new_base(**changes), new_batch((0, 1))).inputs
    normed = torch.nn.functional.layer_norm(inputs[f"{kind}_raw"], (16,), eps=1e-12)
    assert torch.allclose(normed, inputs[kind], atol=1e-5)
    assert not torch.allclose(inputs[f"{kind}_raw"], inputs[kind], atol=1e-2)


def test_raw_input_is_the_input_where_the_norm_comes_after(new_base, new_batch):
    sizes = {"output_size": 16, "attention_heads": 2, "linear_units": 24, "num_blocks": 1}
    inputs = watch(new_base(encoder_conf={**sizes, "normalize_before": False}), new_batch((0, 1))).inputs
    assert torch.equal(inputs["ffn_raw"], inputs["ffn"])


def test_an_encoder_without_attention_blocks_is_refused():
    with pytest.raises(CheckpointError, match="the encoder Lstm has no list `encoders` of blocks"):
        find_sites(SimpleNamespace(encoder=Lstm()))


def test_an_encoder_whose_blocks_are_no_list_is_refused():
    encoder = Lstm()
    encoder.encoders = nn.Linear(2, 2)
    with pytest.raises(CheckpointError, match=r"the encoder Lstm has no list .*docs/models\.md"):
        find_sites(SimpleNamespace(encoder=encoder))


def test_a_branchformer_without_attention_is_refused(new_base):
    sizes = {"output_size": 16, "num_blocks": 1}
    fast = {"attention_layer_type": "fast_selfattn", "pos_enc_layer_type": "abs_pos", "attention_heads": 2}
    for conf in ({"use_attn": False}, fast):
        with pytest.raises(CheckpointError, match="no list `encoders` of blocks with attention"):
            new_base(encoder="branchformer", encoder_conf={**sizes, **conf})
