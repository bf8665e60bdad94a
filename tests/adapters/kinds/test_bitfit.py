"""BitFit: which parameters it trains, and that it trains no others."""

import copy
from dataclasses import replace

import pytest
import torch

from adaptkit.adapters import api
from adaptkit.adapters.kinds.bitfit import Config
from adaptkit.adapters.site import Site
from adaptkit.base.fold import fold
from adaptkit.errors import ConfigError
from adaptkit.model.adapted import AdaptedModel

TINY = {"output_size": 4, "attention_heads": 1, "linear_units": 3, "num_blocks": 1, "rel_pos_type": "latest"}
HYBRID = {"decoder": "transformer", "model_conf": {"ctc_weight": 0.3}}
TRANSDUCER = {
    "decoder": "transducer",
    "decoder_conf": {"rnn_type": "lstm", "num_layers": 1, "hidden_size": 8, "dropout": 0.0},
    "joint_net_conf": {"joint_space_size": 8},
}
CONDITIONED = {"interctc_layer_idx": [1], "interctc_use_conditioning": True}
NAMES = {
    "encoder.norm.bias": True,
    "encoder.conv.weight": False,
    "encoder.attn.pos_bias_u": False,
    "ctc.ctc_lo.bias": True,
    "decoder.cell.bias_ih": True,
    "decoder.lstm.bias_hh_l0": True,
    "decoder.lstm.bias_ih_l11_reverse": True,
    "decoder.bias.scale": False,
    "decoder.debias": False,
}


def weights(names):
    return [Site(name, "weight", -1, 5, 5, shape=(5,)) for name in names]


def build(sites, num_tasks=2, **options):
    return api.build([Config(**options)], sites, [f"spk{task}" for task in range(num_tasks)], seed=0)


def count(stack):
    return sum(parameter.numel() for parameter in stack.parameters())


@pytest.mark.parametrize(("name", "is_bias"), NAMES.items())
def test_biases_are_known_by_their_last_name(name, is_bias):
    stack = build(weights([name, "encoder.any.bias"]))
    assert (name in stack.differences(0)) == is_bias


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 7 * 25),
        ({"per_task": False}, 25),
        ({"parts": ("decoder",)}, 7 * 15),
        ({"parts": ("ctc",)}, 7 * 5),
    ],
)
def test_number_of_parameters_is_the_closed_form(options, expected):
    assert count(build(weights(NAMES), num_tasks=7, **options)) == expected


@pytest.mark.parametrize(("width", "hidden", "kernel"), [(16, 24, 7), (8, 10, 5)])
def test_number_of_biases_in_a_conformer_is_the_closed_form(new_base, new_stack, width, hidden, kernel):
    conf = {"output_size": width, "linear_units": hidden, "cnn_module_kernel": kernel, "macaron_style": True}
    conf = {**conf, "attention_heads": 2, "num_blocks": 3, "rel_pos_type": "latest"}
    base = new_base(encoder_conf=conf)
    attention, feed_forwards = 4 * width, 2 * (hidden + width)  # linear_pos has no bias
    convolution, norms = 2 * width + width + width + width, 5 * width  # in, depthwise, BatchNorm, out
    embed = 2 * width + width  # two convolutions and a linear map
    block = attention + feed_forwards + convolution + norms
    stack = new_stack(base, "bitfit", tasks=("one",), parts=("encoder",))
    assert count(stack) == embed + 3 * block + width  # and the norm after the blocks


def test_exactly_the_biases_change(new_base, new_stack, new_batch):
    base = new_base()
    adapted = AdaptedModel(base, new_stack(base, "bitfit")).train()
    before = copy.deepcopy(base.model.state_dict())
    optimizer = torch.optim.SGD(adapted.adapters.parameters(), lr=0.1)
    with adapted.hooked():
        for _ in range(2):
            adapted.loss(new_batch((1, 1))).backward()
            optimizer.step()
    after = fold(base, adapted.adapters, adapted.adapters.tasks[1]).model.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    keys = {name for name in before if name.endswith("linear_k.bias")}  # softmax cancels them
    assert moved | keys == {name for name in before if name.endswith(".bias")}


def test_other_tasks_keep_the_biases_of_the_base(base, new_stack, new_batch):
    stack = new_stack(base, "bitfit")
    adapted = AdaptedModel(base, stack)
    with adapted.hooked():
        adapted.loss(new_batch((1, 1))).backward()
    torch.optim.SGD(stack.parameters(), lr=0.1).step()
    assert any(difference.any() for difference in stack.differences(1).values())
    assert not any(difference.any() for task in (0, 2) for difference in stack.differences(task).values())


@pytest.mark.parametrize("changes", [{}, HYBRID], ids=["ctc", "attention"])
def test_speakers_share_a_pass_of_the_encoder(new_base, new_stack, new_batch, changes):
    base = new_base(**changes)
    adapted = AdaptedModel(base, new_stack(base, "bitfit", is_trained=True)).train()
    batch, calls = new_batch((0, 1, 2)), []
    base.model.encoder.register_forward_hook(lambda *_: calls.append(1))
    with adapted.hooked():
        together = adapted.loss(batch)
        assert len(calls) == 1
        with torch.no_grad():
            adapted.recognise(batch)
            adapted.measure_rows(batch, searches=True)
        assert len(calls) == 3
        alone = [adapted.loss(batch.rows([row])) for row in range(3)]
    weights = list(adapted.adapters.parameters())
    gradients = [torch.autograd.grad(loss, weights) for loss in (together, *alone)]
    torch.testing.assert_close(together, torch.stack(alone).mean())
    for mixed, *single in zip(*gradients, strict=True):
        torch.testing.assert_close(mixed, sum(single) / 3, atol=1e-5, rtol=1e-4)


def test_an_encoder_that_reads_ctc_has_a_pass_per_speaker(new_base, new_stack, new_batch):
    conf = {**CONDITIONED, "output_size": 16, "attention_heads": 2, "num_blocks": 2, "rel_pos_type": "latest"}
    base = new_base(encoder_conf=conf, model_conf={"ctc_weight": 1.0, "interctc_weight": 0.3})
    adapted, calls = AdaptedModel(base, new_stack(base, "bitfit")).train(), []
    base.model.encoder.register_forward_hook(lambda *_: calls.append(1))
    with adapted.hooked():
        adapted.loss(new_batch((0, 1, 2)))
    assert len(calls) == 3


def test_a_transducer_shares_a_pass_too(new_base, new_stack):
    stack = new_stack(new_base(**TRANSDUCER), "bitfit")
    assert stack.mixes_tasks
    assert {name.partition(".")[0] for name in stack.differences(0)} == {"ctc", "decoder", "joint_network"}


def test_flash_attention_which_joins_rows_is_off_in_a_pass(new_base, new_stack, new_batch):
    base = new_base()
    attention, seen = base.model.encoder.encoders[0].self_attn, []
    attention.use_flash_attn = True
    attention.register_forward_pre_hook(lambda module, args: seen.append(module.use_flash_attn))
    adapted = AdaptedModel(base, new_stack(base, "bitfit"))
    with adapted.hooked():
        adapted.encode(new_batch((0, 1, 2)))
    assert (seen, attention.use_flash_attn) == ([False], True)


def test_an_output_without_a_row_per_utterance_is_refused(new_base, new_stack, new_batch):
    base = new_base()
    adapted = AdaptedModel(base, new_stack(base, "bitfit"))
    norm = base.model.encoder.after_norm
    norm.register_forward_pre_hook(lambda module, args: (args[0][:1],))
    refused = pytest.raises(ConfigError, match=r"encoder\.after_norm .* has 1 output for a batch of 3")
    with adapted.hooked(), refused:
        adapted.encode(new_batch((0, 1, 2)))


@pytest.mark.slow
def test_gradients_are_those_of_finite_differences_in_float64(new_base, new_stack, new_batch):
    base = new_base(encoder_conf={**TINY, "macaron_style": True, "cnn_module_kernel": 3})
    base.model.double()
    stack = new_stack(base, "bitfit", parts=("encoder",), is_trained=True).double()
    batch = new_batch((1,), length=15)
    batch = replace(batch, inputs=batch.inputs.double())
    adapted = AdaptedModel(base, stack)

    def compute(*parameters):  # perturbed where they are
        return adapted.encode(batch)[0]

    with adapted.hooked():
        assert torch.autograd.gradcheck(compute, tuple(stack.parameters()))


def test_a_base_without_biases_is_refused():
    with pytest.raises(ConfigError, match="no parameter there is a bias"):
        build(weights(["encoder.map.weight", "ctc.ctc_lo.bias"]), parts=("encoder",))


def test_a_part_that_the_base_lacks_is_refused_with_those_it_has():
    with pytest.raises(ConfigError, match="this base model has no decoder; it has encoder"):
        build(weights(["encoder.map.bias"]), parts=("decoder",))
