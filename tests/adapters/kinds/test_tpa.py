"""Two parallel adapters against their equation, their count, and a Conformer block worked by hand."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from adaptkit.adapters import api
from adaptkit.adapters.kinds.tpa import Config
from adaptkit.adapters.site import Site
from adaptkit.base.sites import attached
from adaptkit.errors import ConfigError
from adaptkit.model.adapted import AdaptedModel

BRANCHES = {True: ("ffn_macaron", "ffn"), False: ("ffn",)}


def feed_forwards(num_blocks, width, is_macaron=True, suffix="_raw"):
    return [
        Site(f"encoder.encoders.{index}.{kind}", f"{kind}{suffix}", index, width, width)
        for index in range(num_blocks)
        for kind in BRANCHES[is_macaron]
    ]


def build(sites, num_tasks, **options):
    return api.build([Config(**options)], sites, [f"spk{task}" for task in range(num_tasks)], seed=0)


def count(stack):
    return sum(parameter.numel() for parameter in stack.parameters())


def bottleneck(member, site, z):
    """A(z) for task 0, with plain matrices."""
    down, up = member.down[site.key], member.up[site.key]
    return torch.relu(z @ down.weight[0] + down.bias[0]) @ up.weight[0] + up.bias[0]


def by_hand(block, x, pos_emb, mask, beside):
    """A Conformer block in eval(); `beside` gives what stands beside a feed-forward, from x and LN(x)."""
    half = block.norm_ff_macaron(x)
    x = x + 0.5 * (block.feed_forward_macaron(half) + beside("ffn_macaron", x, half))
    normed = block.norm_mha(x)
    x = x + block.self_attn(normed, normed, normed, pos_emb, mask)
    x = x + block.conv_module(block.norm_conv(x))
    half = block.norm_ff(x)
    return block.norm_final(x + 0.5 * (block.feed_forward(half) + beside("ffn", x, half)))


@pytest.fixture
def first_block(base):
    """The first block of the tiny Conformer, and what enters it: x, positions and mask."""
    torch.manual_seed(0)
    (x, pos_emb), mask = base.model.encoder.embed(torch.randn(1, 40, 20), torch.ones(1, 1, 40).bool())
    return base.model.encoder.encoders[0], x, pos_emb, mask


def adapted_block(base, stack, first_block):
    block, x, pos_emb, mask = first_block
    with torch.no_grad(), attached(base.model, stack, base.sites), stack.for_tasks((0,)):
        return block((x, pos_emb), mask)[0][0]


@pytest.mark.parametrize(
    ("num_tasks", "num_blocks", "width", "inner"), [(1, 1, 8, 2), (3, 2, 16, 4), (2, 12, 256, 64)]
)
@pytest.mark.parametrize(("is_macaron", "per_block"), [(True, 2), (False, 1)])
def test_number_of_parameters_is_the_closed_form(num_tasks, num_blocks, width, inner, is_macaron, per_block):
    stack = build(feed_forwards(num_blocks, width, is_macaron), num_tasks, bottleneck=inner)
    assert count(stack) == num_tasks * per_block * num_blocks * (2 * width * inner + inner + width)


def test_number_of_parameters_counts_chosen_blocks_alone():
    stack = build(feed_forwards(12, 16), 3, bottleneck=4, blocks=(9, 10, 11))
    assert count(stack) == 3 * 2 * 3 * (2 * 16 * 4 + 4 + 16)


@pytest.mark.parametrize(("is_macaron", "per_block"), [(True, 2), (False, 1)])
def test_number_of_parameters_on_a_real_conformer(new_base, new_stack, is_macaron, per_block):
    sizes = {"output_size": 16, "attention_heads": 2, "linear_units": 24, "num_blocks": 3}
    conformer = new_base(encoder_conf={**sizes, "macaron_style": is_macaron, "rel_pos_type": "latest"})
    stack = new_stack(conformer, "tpa", tasks=["a"], bottleneck=4)
    assert count(stack) == per_block * 3 * (2 * 16 * 4 + 4 + 16)


@pytest.mark.parametrize(
    ("activation", "hidden"), [("relu", 0.0), ("swish", -0.5 / (1 + math.e**0.5)), ("gelu", -0.1542688)]
)
def test_output_is_the_equation_by_hand(activation, hidden):
    (site,) = feed_forwards(1, 2, is_macaron=False)
    stack = build([site], 2, bottleneck=1, activation=activation)
    down, up = stack[0].down[site.key], stack[0].up[site.key]
    down.weight.data[1], down.bias.data[1] = torch.tensor([[2.0], [0.5]]), torch.tensor([-3.0])
    up.weight.data[1], up.bias.data[1] = torch.tensor([[3.0, -1.0]]), torch.tensor([0.5, 0.0])
    x_in, x_out = torch.tensor([[[1.0, 1.0]]]), torch.tensor([[[5.0, 1.0]]])
    with stack.for_tasks((1,)):
        y = stack.adapt(site, x_in, x_out)  # the hidden unit sees 2 + 0.5 - 3 = -0.5
    torch.testing.assert_close(y, torch.tensor([[[5.5 + 3 * hidden, 1 - hidden]]]))


@pytest.mark.parametrize("given", ["raw", "normed"])
def test_adapted_block_is_x_plus_half_of_feed_forward_and_adapter(base, new_stack, first_block, given):
    stack = new_stack(base, "tpa", is_trained=True, bottleneck=4, input=given)
    sites = {site.kind.removesuffix("_raw"): site for site in stack[0].sites if site.block == 0}

    def beside(kind, x, normed):
        return bottleneck(stack[0], sites[kind], x if given == "raw" else normed)

    with torch.no_grad():
        expected = by_hand(*first_block, beside)
    torch.testing.assert_close(adapted_block(base, stack, first_block), expected, atol=1e-5, rtol=0)


def test_block_by_hand_without_adapters_is_the_block(base, new_stack, first_block):
    with torch.no_grad():
        expected = by_hand(*first_block, lambda kind, x, normed: 0)
    untrained = adapted_block(base, new_stack(base, "tpa"), first_block)
    torch.testing.assert_close(untrained, expected, atol=1e-5, rtol=0)


def test_an_adapter_that_undoes_its_feed_forward_leaves_x_on_the_skip_path(base, new_stack, first_block):
    """Its hidden units are the feed-forward's own and their output is turned: y = x + r (f - f) = x."""
    stack = new_stack(base, "tpa", input="normed", activation="swish", bottleneck=24, tasks=["a"])
    for site in (site for site in stack[0].sites if site.block == 0):
        units = base.model.get_submodule(site.name)
        down, up = stack[0].down[site.key], stack[0].up[site.key]
        down.weight.data[0], down.bias.data[0] = units.w_1.weight.T, units.w_1.bias
        up.weight.data[0], up.bias.data[0] = -units.w_2.weight.T, -units.w_2.bias
    block, x, pos_emb, mask = first_block
    with torch.no_grad():
        normed = block.norm_mha(x)
        x = x + block.self_attn(normed, normed, normed, pos_emb, mask)
        expected = block.norm_final(x + block.conv_module(block.norm_conv(x)))
    torch.testing.assert_close(adapted_block(base, stack, first_block), expected, atol=1e-5, rtol=0)


def test_raw_and_normed_input_differ_with_the_same_weights(base, new_stack, new_batch, encode):
    raw, normed = (new_stack(base, "tpa", is_trained=True, input=given) for given in ("raw", "normed"))
    normed.load_state_dict(raw.state_dict())
    batch = new_batch((0, 1))
    assert not torch.allclose(encode(base, raw, batch), encode(base, normed, batch), atol=1e-2)


def test_blocks_left_out_are_as_in_the_base(base, new_stack, first_block):
    block, x, pos_emb, mask = first_block
    stack = new_stack(base, "tpa", is_trained=True, blocks=[1])
    with torch.no_grad():
        expected = block((x, pos_emb), mask)[0][0]
    assert torch.equal(adapted_block(base, stack, first_block), expected)


def test_chosen_blocks_act_as_all_blocks_do_with_zeros_in_the_others(base, new_stack, new_batch, encode):
    whole, upper = (new_stack(base, "tpa", is_trained=True, blocks=b) for b in (None, [1]))
    upper.load_state_dict({name: whole.state_dict()[name] for name in upper.state_dict()})
    for name, parameter in whole.named_parameters():
        parameter.data *= name in upper.state_dict()
    batch = new_batch((0, 1))
    assert torch.equal(encode(base, whole, batch), encode(base, upper, batch))


@pytest.mark.parametrize(("blocks", "named"), [([2], "2"), ([0, 7, 9], "7, 9")])
def test_a_block_that_is_not_there_is_refused_with_the_range(blocks, named):
    with pytest.raises(ConfigError, match=f"blocks: {named} not among this base model's blocks, 0 to 1"):
        build(feed_forwards(2, 4), 1, blocks=blocks)


def test_gradients_are_those_of_finite_differences_in_float64():
    (site,) = feed_forwards(1, 4, is_macaron=False)
    stack = build([site], 2, bottleneck=3).double()
    torch.nn.init.normal_(stack[0].up[site.key].weight)
    torch.manual_seed(0)
    x_in, x_out = torch.randn(2, 3, 5, 4, dtype=torch.float64, requires_grad=True)

    with stack.for_tasks((0, 1, 0)):
        inputs = (x_in, x_out, *stack.parameters())  # perturbed where they are
        assert torch.autograd.gradcheck(lambda x_in, x_out, *w: stack.adapt(site, x_in, x_out), inputs)


@pytest.mark.parametrize("given", ["raw", "normed"])
def test_gradients_through_a_conformer_are_those_of_finite_differences(base, new_stack, new_batch, given):
    exact = replace(base, model=copy.deepcopy(base.model).double())
    stack = new_stack(base, "tpa", is_trained=True, tasks=["a"], bottleneck=1, input=given).double()
    batch = new_batch((0,), length=15)
    batch = replace(batch, inputs=batch.inputs.double())
    adapted = AdaptedModel(exact, stack).eval()
    with adapted.hooked():
        assert torch.autograd.gradcheck(
            lambda *weights: adapted.encode(batch)[0], tuple(stack.parameters()), fast_mode=True
        )


def test_a_fold_is_the_adapter_as_hidden_units():
    (site,) = feed_forwards(1, 4, is_macaron=False, suffix="")
    stack = build([site], 2, bottleneck=3, input="normed", activation="gelu")
    torch.manual_seed(0)
    for parameter in stack.parameters():
        torch.nn.init.normal_(parameter)
    (fold,), x = stack[0].fold(1), torch.randn(1, 5, 4)
    with stack.for_tasks((1,)):
        expected = stack.adapt(site, x, torch.zeros(1, 5, 4))
    hidden = functional.gelu(functional.linear(x, fold.weight_in, fold.bias_in))
    assert (fold.site, fold.activation) == (site, "gelu")
    torch.testing.assert_close(functional.linear(hidden, fold.weight_out, fold.bias_out), expected)


def test_folding_is_refused_where_the_norm_stands_between():
    with pytest.raises(ConfigError, match=r"before the norm.*train it with 'input: normed'"):
        build(feed_forwards(1, 4), 1)[0].fold(0)
