"""Hierarchical feature fusion against its equations and its counts."""

import math

import pytest
import torch

from adaptkit.adapters import api
from adaptkit.adapters.kinds.hff import Config
from adaptkit.adapters.site import Site
from adaptkit.errors import ConfigError

FUSIONS = ("tree", "weighted_sum", "concat")
HIGH, LOW = [5.0, 1.0], [1.0, 5.0]  # normed: 1, -1 and -1, 1 (but for the 1e-5 beneath the root)


def places(num_blocks, width):
    blocks = [Site(f"encoder.encoders.{index}", "block", index, width, width) for index in range(num_blocks)]
    return [*blocks, Site("encoder", "encoder_out", -1, width, width)]


def build(sites, num_tasks=1, **options):
    return api.build([Config(**options)], sites, [f"spk{task}" for task in range(num_tasks)], seed=0)


def by_hand(num_blocks, fusion):
    """Make one of width 2 and inner width 1 whose first task adds to both channels what is fused."""
    sites = places(num_blocks, 2)
    stack = build(sites, 2, fusion=fusion, dim=1)
    put(stack[0].out, [[1.0, 1.0]])
    return stack, sites


def put(linear, weight, bias=0.0):
    """Set the first task's map."""
    linear.weight.data[0] = torch.tensor(weight)
    if linear.bias is not None:
        linear.bias.data[0] = bias


def act(stack, sites, outputs, task_ids=(0,)):
    """Return what leaves the encoder for what left each site before."""
    with stack.for_tasks(task_ids):
        stack[0].begin()
        for site, x in zip(sites, outputs, strict=True):
            encoded = stack.adapt(site, x, x)
        stack[0].end()
    return encoded


def added(stack, sites, *rows):
    """Return what is added to an encoder's output of zeros, for blocks of one frame each."""
    outputs = [torch.tensor([[row]]) for row in rows]
    return act(stack, sites, [*outputs, torch.zeros(1, 1, 2)])


def assert_added(found, value):
    torch.testing.assert_close(found, torch.full((1, 1, 2), value), atol=1e-4, rtol=1e-5)


# counts


@pytest.mark.parametrize(
    ("num_tasks", "num_blocks", "width", "dim"),
    [(1, 2, 8, 2), (3, 5, 16, 4), (10, 12, 144, 64), (2, 18, 512, 32)],
)
@pytest.mark.parametrize("fusion", FUSIONS)
def test_number_of_parameters_is_the_closed_form(fusion, num_tasks, num_blocks, width, dim):
    stack = build(places(num_blocks, width), num_tasks, fusion=fusion, dim=dim)
    taps, d, out = num_blocks, dim, dim * width + width
    fused = {
        "tree": taps * (width * d + d) + (taps - 1) * (2 * d * d + d),
        "weighted_sum": taps + width * d + d,
        "concat": taps * width * d + d,
    }
    assert sum(parameter.numel() for parameter in stack.parameters()) == num_tasks * (fused[fusion] + out)


def test_number_of_parameters_counts_tapped_blocks_alone():
    stack = build(places(12, 16), 3, dim=4, taps=(3, 7, 11))
    expected = 3 * (3 * (16 * 4 + 4) + 2 * (2 * 4 * 4 + 4) + 4 * 16 + 16)
    assert sum(parameter.numel() for parameter in stack.parameters()) == expected


# equations


def test_a_tree_of_two_is_the_equation_by_hand():
    stack, sites = by_hand(2, "tree")
    first, second = stack[0].fusion.project
    put(first, [[2.0], [0.0]], 0.5)
    put(second, [[3.0], [0.0]])
    put(stack[0].fusion.merge[0], [[1.0], [2.0]], -1.0)
    assert_added(added(stack, sites, HIGH, HIGH), 1 * (2.0 + 0.5) + 2 * 3.0 - 1)
    assert_added(added(stack, sites, HIGH, LOW), 0.0)  # relu of 2.5 - 6 - 1


def test_the_odd_one_out_of_three_is_merged_last():
    stack, sites = by_hand(3, "tree")
    for project, scale in zip(stack[0].fusion.project, (1.0, 10.0, 100.0), strict=True):
        put(project, [[scale], [0.0]])
    first, last = stack[0].fusion.merge
    put(first, [[1.0], [2.0]])
    put(last, [[3.0], [5.0]])
    assert_added(added(stack, sites, HIGH, HIGH, HIGH), 3 * (1 + 2 * 10.0) + 5 * 100)


def test_four_are_merged_in_pairs_and_then_the_pairs():
    stack, sites = by_hand(4, "tree")
    for project, scale in zip(stack[0].fusion.project, (1.0, 10.0, 100.0, 1000.0), strict=True):
        put(project, [[scale], [0.0]])
    for merge, pair in zip(stack[0].fusion.merge, ((1.0, 2.0), (3.0, 4.0), (5.0, 6.0)), strict=True):
        put(merge, [[pair[0]], [pair[1]]])
    expected = 5 * (1 + 2 * 10.0) + 6 * (3 * 100 + 4 * 1000)
    assert_added(added(stack, sites, HIGH, HIGH, HIGH, HIGH), expected)
    assert_added(added(stack, sites, HIGH, HIGH, LOW, LOW), 5 * (1 + 2 * 10.0))  # relu of the upper pair


def test_a_single_tap_is_projected_alone():
    stack, sites = by_hand(1, "tree")
    put(stack[0].fusion.project[0], [[-2.0], [0.0]], 0.5)
    assert_added(added(stack, sites, HIGH), -1.5)


def test_a_weighted_sum_is_the_equation_by_hand():
    stack, sites = by_hand(3, "weighted_sum")
    put(stack[0].fusion.scores, [[0.0, math.log(3), math.log(4)]])  # softmax: 1/8, 3/8, 4/8
    put(stack[0].fusion.project, [[8.0], [0.0]], 1.0)
    assert_added(added(stack, sites, LOW, HIGH, HIGH), -1 + 3 + 4 + 1.0)
    assert_added(added(stack, sites, HIGH, LOW, LOW), 0.0)  # relu of 1 - 3 - 4 + 1


def test_an_untrained_weighted_sum_is_the_mean():
    stack, sites = by_hand(3, "weighted_sum")
    put(stack[0].fusion.project, [[3.0], [0.0]])
    assert_added(added(stack, sites, LOW, HIGH, HIGH), 1.0)


def test_a_concatenation_is_the_equation_by_hand():
    stack, sites = by_hand(2, "concat")
    put(stack[0].fusion.project, [[1.0], [0.0], [0.0], [-4.0]], 0.5)
    assert_added(added(stack, sites, HIGH, HIGH), 1 + 4 + 0.5)  # z are 1, -1, 1, -1
    assert_added(added(stack, sites, HIGH, LOW), 0.0)  # relu of 1 - 4 + 0.5


@pytest.mark.parametrize("fusion", FUSIONS)
def test_blocks_of_any_scale_count_alike(fusion):
    sites = places(3, 8)
    stack = build(sites, fusion=fusion, dim=4)
    torch.nn.init.normal_(stack[0].out.weight)
    x = torch.randn(4, 1, 5, 8, generator=torch.Generator().manual_seed(0)).unbind(0)
    scaled = [100 * x[0], 0.1 * x[1] + 7, *x[2:]]
    torch.testing.assert_close(act(stack, sites, scaled), act(stack, sites, x), atol=2e-3, rtol=4e-3)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_each_row_goes_through_the_weights_of_its_own_task(fusion):
    sites = places(3, 8)
    stack = build(sites, 3, fusion=fusion, dim=4)
    for parameter in stack.parameters():
        torch.nn.init.normal_(parameter)
    x = torch.randn(4, 2, 5, 8, generator=torch.Generator().manual_seed(0)).unbind(0)
    together = act(stack, sites, x, task_ids=(2, 0))
    for row, task in enumerate((2, 0)):
        alone = act(stack, sites, [own[row : row + 1] for own in x], task_ids=(task,))
        torch.testing.assert_close(together[row], alone[0])


# places and gradients


def test_a_block_leaves_as_it_came_and_one_that_is_not_tapped_is_not_read():
    sites, x = places(3, 4), torch.ones(1, 5, 4)
    stack = build(sites, taps=(0, 2))
    with stack.for_tasks((0,)):
        assert all(stack.adapt(site, x, x) is x for site in sites[:-1])
    assert len(stack[0].read) == 2


def test_no_output_of_a_block_is_kept_after_the_pass():
    stack, sites = by_hand(2, "tree")
    added(stack, sites, HIGH, LOW)
    assert stack[0].read == []


def test_a_tap_that_is_not_there_is_refused_with_the_range():
    with pytest.raises(ConfigError, match="taps: 12 not among this base model's blocks, 0 to 11"):
        build(places(12, 4), taps=(0, 12))


def test_no_taps_at_all_are_refused():
    with pytest.raises(ValueError, match="at least 1 item"):
        Config(taps=())


@pytest.mark.parametrize("fusion", FUSIONS)
def test_gradients_are_those_of_finite_differences_in_float64(fusion):
    sites = places(3, 4)
    stack = build(sites, 2, fusion=fusion, dim=3).double()
    torch.nn.init.normal_(stack[0].out.weight)
    generator = torch.Generator().manual_seed(0)
    *blocks, encoded = torch.randn(4, 3, 5, 4, generator=generator).double().unbind(0)
    inputs = (encoded.requires_grad_(), *stack.parameters())  # perturbed where they are
    assert torch.autograd.gradcheck(lambda x, *weights: act(stack, sites, [*blocks, x], (0, 1, 0)), inputs)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_no_gradient_goes_back_into_blocks(fusion):
    sites = places(2, 4)
    stack = build(sites, fusion=fusion)
    torch.nn.init.normal_(stack[0].out.weight)
    *blocks, encoded = (torch.randn(1, 5, 4, requires_grad=True) for _ in sites)
    act(stack, sites, [*blocks, encoded]).sum().backward()
    assert all(x.grad is None for x in blocks)
    assert encoded.grad is not None


@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_task_absent_from_the_batch_gets_no_gradient(fusion):
    sites = places(3, 4)
    stack = build(sites, 3, fusion=fusion)
    torch.nn.init.normal_(stack[0].out.weight)
    x = torch.randn(4, 2, 5, 4, generator=torch.Generator().manual_seed(0)).unbind(0)
    act(stack, sites, x, task_ids=(2, 0)).sum().backward()
    assert not any(parameter.grad[1].any() for parameter in stack.parameters())
    assert all(parameter.grad[[0, 2]].any() for parameter in stack.parameters())
