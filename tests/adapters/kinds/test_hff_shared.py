"""Hierarchical feature fusion whose maps speakers share, with and without a network over time."""

import pytest
import torch

from adaptkit.adapters import api
from adaptkit.adapters.kinds.hff import Config
from adaptkit.adapters.per_task import shared_parameters, task_parameters
from adaptkit.adapters.site import Site
from adaptkit.base.fold import fold
from adaptkit.errors import ConfigError
from adaptkit.model.adapted import AdaptedModel
from adaptkit.training.precision import autocast

ALL_TASKS = (0, 1, 2)
SIDES = {
    "none": {"side": "none"},
    "conv": {"side": "conv", "kernel": 5, "side_layers": 2},
    "attention": {"side": "attention", "heads": 2, "side_layers": 2},
}


@pytest.fixture(params=SIDES)
def options(request):
    """The options of hff with each side network."""
    return {"shared": True, "dim": 8, **SIDES[request.param]}


@pytest.fixture
def trained(base, new_stack, options):
    """Adapters that differ from the base, and between speakers."""
    return new_stack(base, "hff", is_trained=True, **options)


def count(pairs):
    return sum(parameter.numel() for _, parameter in pairs)


def places(num_blocks, width):
    blocks = [Site(f"encoder.encoders.{index}", "block", index, width, width) for index in range(num_blocks)]
    return [*blocks, Site("encoder", "encoder_out", -1, width, width)]


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("fusion", ["tree", "weighted_sum", "concat"])
def test_number_of_parameters_is_the_closed_form(fusion, side):
    sizes = {"none": {}, "conv": {"side_layers": 3, "kernel": 5}, "attention": {"side_layers": 3, "heads": 2}}
    config = Config(fusion=fusion, dim=12, shared=True, side=side, **sizes[side])
    stack = api.build([config], places(5, 16), ["spk1", "spk2", "spk3"], seed=0)
    taps, d, width = 5, 12, 16
    fused = {
        "tree": taps * (width * d + d) + (taps - 1) * (2 * d * d + d),
        "weighted_sum": taps + width * d + d,
        "concat": taps * width * d + d,
    }
    layer = {"none": 0, "conv": 5 * d + 4 * d * d + 4 * d, "attention": 8 * d * d + 7 * d + 33 * 2}
    num_layers = 0 if side == "none" else 3
    assert count(task_parameters(stack)) == 3 * ((num_layers + 1) * 2 * d + width)
    assert count(shared_parameters(stack)) == fused[fusion] + d * width + num_layers * layer[side]


def test_untrained_adapters_change_nothing(base, new_stack, new_batch, encode, options, bank):
    batch = new_batch(ALL_TASKS)
    adapted = encode(base, new_stack(base, "hff", **options, **bank), batch)
    assert torch.equal(adapted, encode(base, None, batch))


def test_every_parameter_learns_within_two_steps(base, new_stack, new_batch, options, bank):
    stack = new_stack(base, "hff", **options, **bank)
    adapted, learned = AdaptedModel(base, stack).train(), set()
    optimizer = torch.optim.SGD(stack.parameters(), lr=0.1)
    with adapted.hooked():
        for _ in range(2):
            optimizer.zero_grad()
            adapted.loss(new_batch(ALL_TASKS)).backward()
            learned |= {n for n, p in stack.named_parameters() if p.grad is not None and p.grad.any()}
            optimizer.step()
    assert learned == {name for name, _ in stack.named_parameters()}


def test_a_row_of_a_mixed_batch_is_as_in_a_batch_of_its_task(base, trained, new_batch, encode):
    together = encode(base, trained, new_batch((0, -1, 2)))
    for row, task in ((0, 0), (2, 2)):
        assert torch.equal(together[row], encode(base, trained, new_batch((task,) * 3))[row])
    assert torch.equal(together[1], encode(base, None, new_batch((0, -1, 2)))[1])


def test_a_row_beside_longer_ones_is_as_alone(base, trained, new_batch):
    adapted, batch = AdaptedModel(base, trained).eval(), new_batch(ALL_TASKS)
    with torch.no_grad(), adapted.hooked():
        together, frames = adapted.encode(batch)
        for row, num_frames in enumerate(frames.tolist()):
            alone, _ = adapted.encode(batch.rows([row]))
            torch.testing.assert_close(together[row, :num_frames], alone[0], atol=1e-4, rtol=1e-4)


def test_changing_a_speakers_own_weights_changes_no_other_speaker(base, trained, new_batch, encode):
    before = encode(base, trained, new_batch(ALL_TASKS))
    for _, parameter in task_parameters(trained):
        parameter.data[0] += 1.0
    after = encode(base, trained, new_batch(ALL_TASKS))
    assert not torch.equal(after[0], before[0])
    assert torch.equal(after[1:], before[1:])


def test_lengths_are_known_beside_adapters_inside_the_encoder(base, new_stack, new_batch, encode, trained):
    inside, batch = new_stack(base, "residual"), new_batch(ALL_TASKS)  # untrained
    both = api.AdapterStack([*inside, *trained], [*inside.configs, *trained.configs], trained.tasks)
    assert AdaptedModel(base, both).taps == ()
    torch.testing.assert_close(encode(base, both, batch), encode(base, trained, batch))


def test_bfloat16_is_finite_and_close(base, trained, new_batch, encode):
    expected = encode(base, trained, new_batch(ALL_TASKS))
    with autocast(torch.device("cpu"), "bfloat16"):
        coarse = encode(base, trained, new_batch(ALL_TASKS)).float()
    assert torch.isfinite(coarse).all()
    assert (coarse - expected).abs().mean() < 0.1


def test_an_output_bias_reaches_any_bias_of_the_logits(base, new_stack, new_batch):
    stack, batch = new_stack(base, "hff", shared=True), new_batch(ALL_TASKS)
    weight = base.model.ctc.ctc_lo.weight  # (V, D) with V < D
    wanted = torch.arange(float(len(weight)))
    stack[0].bias.bias.data[1] = torch.linalg.pinv(weight.detach()) @ wanted
    adapted = AdaptedModel(base, stack).eval()
    with torch.no_grad(), adapted.hooked():
        logits = base.model.ctc.ctc_lo(adapted.encode(batch)[0])
        plain = base.model.ctc.ctc_lo(adapted.encode(batch.of_task(-1))[0])
    torch.testing.assert_close(logits[1] - plain[1], wanted.expand_as(plain[1]), atol=1e-3, rtol=1e-3)
    assert torch.equal(logits[0], plain[0])


def test_tap_dropout_leaves_out_blocks_of_whole_utterances_in_training_alone(base, new_stack):
    stack = new_stack(base, "hff", shared=True, tap_dropout=0.5)
    member, x = stack[0], torch.ones(400, 3, 16)
    member.train()
    dropped = member._drop(x)
    assert set(dropped.unique().tolist()) == {0.0, 2.0}
    assert (dropped == dropped[:, :1, :1]).all()
    assert member.eval()._drop(x) is x


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"side": "conv"}, "'side: conv' needs 'shared: true'"),
        ({"tap_dropout": 0.1}, "'tap_dropout: 0.1' needs 'shared: true'"),
        ({"shared": True, "side": "conv", "kernel": 4}, "'kernel: 4' has no middle; set 5"),
        ({"kernel": 5}, "'kernel: 5' has no effect with 'side: none'; leave it out"),
        ({"side_layers": 3}, "'side_layers: 3' has no effect with 'side: none'"),
        ({"shared": True, "side": "conv", "heads": 2}, "'heads: 2' has no effect with 'side: conv'"),
        ({"shared": True, "side": "attention", "dim": 10}, "'heads: 4' do not divide 'dim: 10'"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, reason):
    with pytest.raises(ValueError, match=reason):
        Config(**options)


def test_it_cannot_be_folded(base, trained):
    with pytest.raises(ConfigError, match="'hff' cannot be folded"):
        fold(base, trained, "spk1")
