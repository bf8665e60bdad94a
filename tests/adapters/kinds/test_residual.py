"""The residual adapter against its equation and its count."""

import math

import pytest
import torch

from adaptkit.adapters import api
from adaptkit.adapters.kinds.residual import Config
from adaptkit.adapters.per_task import TaskLinear
from adaptkit.adapters.site import Site
from adaptkit.errors import ConfigError


def blocks(num_blocks, width):
    return [Site(f"encoder.encoders.{index}", "block", index, width, width) for index in range(num_blocks)]


def drawn(linear):
    torch.manual_seed(0)
    for task in range(len(linear.weight)):
        linear.draw(task)
    return linear


def build(sites, num_tasks, **options):
    return api.build([Config(**options)], sites, [f"spk{task}" for task in range(num_tasks)], seed=0)


@pytest.mark.parametrize(
    ("num_tasks", "num_blocks", "width", "bottleneck"),
    [(1, 1, 8, 2), (3, 2, 16, 4), (10, 12, 144, 64), (2, 18, 512, 256)],
)
def test_number_of_parameters_is_the_closed_form(num_tasks, num_blocks, width, bottleneck):
    stack = build(blocks(num_blocks, width), num_tasks, bottleneck=bottleneck)
    expected = num_tasks * num_blocks * (2 * width * bottleneck + bottleneck + width)
    assert sum(parameter.numel() for parameter in stack.parameters()) == expected


def test_output_is_the_equation_by_hand():
    (site,) = blocks(1, 2)
    stack = build([site], 2, bottleneck=1)
    member = stack[0]
    member.down[site.key].weight.data[1] = torch.tensor([[2.0], [0.5]])
    member.down[site.key].bias.data[1] = torch.tensor([0.25])
    member.up[site.key].weight.data[1] = torch.tensor([[3.0, -1.0]])
    member.up[site.key].bias.data[1] = torch.tensor([0.5, 0.0])
    x = torch.tensor([[[5.0, 1.0]]])  # normed: 1, -1 (but for the 1e-5 beneath the root)
    with stack.for_tasks((1,)):
        y = stack.adapt(site, x, x)
    hidden = 2.0 - 0.5 + 0.25
    torch.testing.assert_close(y, torch.tensor([[[5 + 3 * hidden + 0.5, 1 - hidden]]]), atol=1e-4, rtol=0)


def test_number_of_parameters_counts_chosen_blocks_alone():
    stack = build(blocks(12, 16), 3, bottleneck=4, blocks=(10, 11))
    assert sum(parameter.numel() for parameter in stack.parameters()) == 3 * 2 * (2 * 16 * 4 + 4 + 16)


def test_a_parallel_adapter_reads_the_input_of_the_block_and_adds_to_its_output():
    (site,) = blocks(1, 6)
    after, beside = (
        build([site], 2, bottleneck=3, placement=f"block_{placement}")
        for placement in ("sequential", "parallel")
    )
    torch.nn.init.normal_(after[0].up[site.key].weight)
    beside.load_state_dict(after.state_dict())
    torch.manual_seed(0)
    x_in, x_out = torch.randn(2, 1, 5, 6)
    with after.for_tasks((1,)), beside.for_tasks((1,)):
        added = after.adapt(site, x_out, x_in) - x_in  # a sequential one, were x_in the block's output
        torch.testing.assert_close(beside.adapt(site, x_in, x_out), x_out + added)


def test_a_block_that_is_not_chosen_leaves_as_it_came():
    sites, x = blocks(2, 4), torch.arange(20.0).reshape(1, 5, 4)
    stack = build(sites, 1, blocks=(1,))
    torch.nn.init.ones_(stack[0].up[sites[1].key].bias)
    with stack.for_tasks((0,)):
        assert stack.adapt(sites[0], x, x) is x
        assert not torch.equal(stack.adapt(sites[1], x, x), x)


def test_a_block_that_is_not_there_is_refused_with_the_range():
    with pytest.raises(ConfigError, match="blocks: 12 not among this base model's blocks, 0 to 11"):
        build(blocks(12, 4), 1, blocks=(0, 12))


def test_no_blocks_at_all_are_refused():
    with pytest.raises(ValueError, match="at least 1 item"):
        Config(blocks=())


def test_gradients_are_those_of_finite_differences_in_float64():
    (site,) = blocks(1, 4)
    stack = build([site], 2, bottleneck=3).double()
    torch.nn.init.normal_(stack[0].up[site.key].weight)
    torch.manual_seed(0)
    x = torch.randn(3, 5, 4, dtype=torch.float64, requires_grad=True)

    with stack.for_tasks((0, 1, 0)):
        inputs = (x, *stack.parameters())  # perturbed where they are
        assert torch.autograd.gradcheck(lambda x, *weights: stack.adapt(site, x, x), inputs)


def test_each_task_is_drawn_from_the_fans_of_its_own_matrix():
    weight = drawn(TaskLinear(200, 30, 10)).weight
    bound = math.sqrt(6 / (30 + 10))  # Xavier-uniform
    assert (weight.abs().amax(dim=(1, 2)) <= bound).all()
    assert (weight.abs().amax(dim=(1, 2)) > 0.9 * bound).all()
    torch.testing.assert_close(weight.std(), torch.tensor(bound / math.sqrt(3)), atol=0.01, rtol=0)


def test_tasks_do_not_start_from_the_same_weights():
    weight = drawn(TaskLinear(2, 4, 3)).weight
    assert not torch.equal(weight[0], weight[1])


def test_task_linear_is_one_affine_map_per_row():
    linear, x = drawn(TaskLinear(3, 4, 5)), torch.randn(2, 6, 4)
    torch.nn.init.normal_(linear.bias)
    y = linear(x, torch.tensor([2, 0]))
    for row, task in enumerate((2, 0)):
        expected = x[row] @ linear.weight[task] + linear.bias[task]
        torch.testing.assert_close(y[row], expected, atol=1e-6, rtol=0)


def test_a_task_absent_from_the_batch_gets_no_gradient():
    linear = drawn(TaskLinear(3, 4, 5))
    linear(torch.ones(2, 6, 4), torch.tensor([2, 0])).sum().backward()
    assert not linear.weight.grad[1].any()
    assert linear.weight.grad[[0, 2]].all()
