"""LoRA against its equation, its count, and PEFT's own on the same linear maps."""

import copy
import importlib
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from adaptkit.adapters import api
from adaptkit.adapters.kinds.lora import Config
from adaptkit.adapters.site import Site
from adaptkit.errors import ConfigError
from adaptkit.model.adapted import AdaptedModel

ATTENTION = ("query", "key", "value", "out")
FFN, MACARON = ("ffn_in", "ffn_out"), ("ffn_macaron_in", "ffn_macaron_out")


def linear(dim_in, dim_out, kind="query"):
    return Site(f"encoder.encoders.0.{kind}", kind, 0, dim_in, dim_out)


def build(sites, num_tasks, **options):
    return api.build([Config(**options)], sites, [f"spk{task}" for task in range(num_tasks)], seed=0)


def count(stack):
    return sum(parameter.numel() for parameter in stack.parameters())


@pytest.mark.parametrize(("num_tasks", "rank"), [(1, 1), (3, 2), (10, 8)])
@pytest.mark.parametrize("sizes", [[(4, 4)], [(4, 4), (4, 16), (16, 4)]])
def test_number_of_parameters_is_the_closed_form(num_tasks, rank, sizes):
    sites = [linear(*size, kind) for size, kind in zip(sizes, ATTENTION[: len(sizes)], strict=True)]
    expected = num_tasks * rank * sum(dim_in + dim_out for dim_in, dim_out in sizes)
    assert count(build(sites, num_tasks, rank=rank)) == expected


def test_number_of_parameters_of_a_whole_conformer_is_the_closed_form(base):
    width, units, blocks, tasks, rank = 16, 24, 2, 3, 5
    expected = tasks * blocks * rank * (12 * width + 4 * units)
    assert count(build(base.sites, tasks, rank=rank)) == expected


def test_output_is_the_equation_by_hand():
    site = linear(2, 2)
    stack = build([site], 2, rank=1, alpha=3)
    stack[0].down[site.key].weight.data[1] = torch.tensor([[2.0], [0.5]])
    stack[0].up[site.key].weight.data[1] = torch.tensor([[1.0, -1.0]])
    x_in, x_out = torch.tensor([[[5.0, 1.0]]]), torch.tensor([[[100.0, 200.0]]])
    with stack.for_tasks((1,)):
        y = stack.adapt(site, x_in, x_out)
    hidden = 5 * 2.0 + 1 * 0.5
    assert torch.equal(y, torch.tensor([[[100 + 3 * hidden, 200 - 3 * hidden]]]))


def test_fold_is_what_a_linear_map_gains():
    torch.manual_seed(0)
    site, x, base = linear(4, 5), torch.randn(2, 3, 4), nn.Linear(4, 5)
    stack = build([site], 2, rank=2, alpha=6)
    nn.init.normal_(stack[0].up[site.key].weight)
    with stack.for_tasks((1, 1)):
        expected = stack.adapt(site, x, base(x))
    (added,) = stack[0].fold(1)
    wider = nn.functional.linear(x, base.weight + added.weight, base.bias)
    torch.testing.assert_close(wider, expected, atol=1e-6, rtol=1e-6)
    assert added.site == site


def test_gradients_are_those_of_finite_differences_in_float64():
    site = linear(3, 2)
    stack = build([site], 2, rank=2, alpha=5).double()
    nn.init.normal_(stack[0].up[site.key].weight)
    torch.manual_seed(0)
    x_in = torch.randn(3, 2, 3, dtype=torch.float64, requires_grad=True)
    x_out = torch.randn(3, 2, 2, dtype=torch.float64, requires_grad=True)

    with stack.for_tasks((0, 1, 0)):
        inputs = (x_in, x_out, *stack.parameters())  # perturbed where they are
        assert torch.autograd.gradcheck(lambda x, y, *weights: stack.adapt(site, x, y.clone()), inputs)


def test_gradient_of_the_output_is_handed_on_without_a_copy():
    site = linear(6, 10)
    stack, base = build([site], 2, rank=2), nn.Linear(6, 10)
    x, handed = torch.randn(2, 3, 6, requires_grad=True), []
    x_out = base(x)  # a view of what the map makes
    x_out.grad_fn.register_prehook(lambda grads: handed.append(grads[0]))
    grad = torch.randn(2, 3, 10)

    with stack.for_tasks((0, 1)):
        stack.adapt(site, x, x_out).backward(grad)

    assert handed[0].data_ptr() == grad.data_ptr()


def test_each_task_is_drawn_from_the_fan_in_of_its_own_matrix():
    site = linear(40, 7)
    weight = build([site], 200, rank=3)[0].down[site.key].weight  # (K, D_in, R)
    bound = 1 / math.sqrt(40)
    assert (weight.abs().amax(dim=(1, 2)) <= bound).all()
    torch.testing.assert_close(weight.std(), torch.tensor(bound / math.sqrt(3)), atol=0.002, rtol=0)
    assert not torch.equal(weight[0], weight[1])


@pytest.mark.parametrize(
    ("targets", "expected"),
    [(("query", "value"), {"query", "value"}), ((*FFN, *MACARON), {*FFN, *MACARON})],
)
def test_targets_are_the_kinds_of_site_that_are_adapted(base, targets, expected):
    kinds = {site.kind for site in build(base.sites, 1, targets=targets)[0].sites}
    assert kinds == expected


def test_targets_that_a_base_lacks_are_passed_over(new_base, model_config):
    conf = {**model_config()["encoder_conf"], "macaron_style": False}
    sites = new_base(encoder_conf=conf).sites
    assert {site.kind for site in build(sites, 1)[0].sites} == {*ATTENTION, *FFN}
    with pytest.raises(ConfigError, match="'lora' acts on sites of kind ffn_macaron_in, ffn_macaron_out"):
        build(sites, 1, targets=MACARON)


@pytest.mark.parametrize("targets", [(), ("linear_q",), ("block",)])
def test_targets_that_are_no_linear_maps_are_refused(targets):
    with pytest.raises(ValueError, match="targets"):
        Config(targets=targets)


@pytest.fixture(scope="module")
def peft():
    """PEFT, which takes ten seconds to import."""
    return importlib.import_module("peft")


@pytest.fixture
def pair(base, new_stack, peft):
    """A base model with our LoRA, and a copy of it with PEFT's and the same matrices of task 1."""
    stack = new_stack(base, "lora", rank=3, alpha=12, is_trained=True)
    names = [site.name for site in stack[0].sites]
    config = peft.LoraConfig(r=3, lora_alpha=12, target_modules=names)
    theirs = peft.inject_adapter_in_model(config, copy.deepcopy(base.model)).eval()
    for site in stack[0].sites:
        module = theirs.get_submodule(site.name)
        module.lora_A.default.weight.data = stack[0].down[site.key].weight.data[1].T.clone()
        module.lora_B.default.weight.data = stack[0].up[site.key].weight.data[1].T.clone()
    return stack, replace(base, model=theirs)


def loss_of(base, stack, batch):
    adapted = AdaptedModel(base, stack, is_frozen=stack is None).eval()
    with adapted.hooked():
        return adapted.loss(batch)


@pytest.mark.slow
def test_loss_and_gradients_are_those_of_peft(base, pair, new_batch):
    stack, theirs = pair
    ours, expected = loss_of(base, stack, new_batch((1, 1))), loss_of(theirs, None, new_batch((1, 1)))
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)
    (ours + expected).backward()
    for site in stack[0].sites:
        module = theirs.model.get_submodule(site.name)
        for own, other in ((stack[0].down, module.lora_A), (stack[0].up, module.lora_B)):
            grad = own[site.key].weight.grad[1]
            torch.testing.assert_close(grad, other.default.weight.grad.T, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_folded_weights_are_those_of_peft(pair):
    stack, theirs = pair
    for added in stack[0].fold(1):
        expected = theirs.model.get_submodule(added.site.name).get_delta_weight("default")
        torch.testing.assert_close(added.weight, expected, atol=1e-6, rtol=1e-6)
