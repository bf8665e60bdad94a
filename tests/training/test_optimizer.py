"""Optimisation in which every task takes steps of its own, against torch's optimisers on its slice alone."""

import copy
import math

import pytest
import torch
from torch import nn

from adaptkit.adapters.per_task import TaskLinear, shared_parameters, taking, task_parameters
from adaptkit.errors import ConfigError
from adaptkit.training.best import selects_by_task
from adaptkit.training.optimizer import PerTask, StepSettings

NUM_TASKS = 4
PRESENT = [(0, 2), (2,), (0, 1, 2), (1,), (0,), (0, 2)]  # the tasks of each step; task 3 in none of them
ALGORITHMS = ["adamw", "sgd"]


class Net(nn.Module):
    """Two maps that tasks own and one that they share."""

    def __init__(self):
        super().__init__()
        self.down, self.up = TaskLinear(NUM_TASKS, 5, 3), TaskLinear(NUM_TASKS, 3, 5)
        self.both = nn.Linear(5, 2)


@pytest.fixture
def net():
    """Weights that tasks own and share, none of them zero."""
    net, generator = Net(), torch.Generator().manual_seed(0)
    for parameter in net.parameters():
        nn.init.normal_(parameter, generator=generator)
    return net


@pytest.fixture
def gradients(net):
    """The gradients of each step by name; those of absent tasks are zero, as backward gives them."""
    generator, steps = torch.Generator().manual_seed(1), []
    for present in PRESENT:
        grads = {name: torch.randn(p.shape, generator=generator) for name, p in net.named_parameters()}
        for name, _ in task_parameters(net):
            grads[name][[task for task in range(NUM_TASKS) if task not in present]] = 0.0
        steps.append(grads)
    return steps


def give(module, grads, optimizer=None):
    """Give parameters their gradients: of those that tasks own, the slices of the optimiser's step."""
    owned = [] if optimizer is None else optimizer.names
    for name, parameter in module.named_parameters():
        if name not in owned:
            parameter.grad = grads[name].clone()
    for name, slices in zip(owned, optimizer.slices if optimizer else (), strict=True):
        slices.grad = grads[name][optimizer.present].clone()


def per_task(net, algorithm, weight_decay=0.1):
    return PerTask(net, NUM_TASKS, algorithm=algorithm, weight_decay=weight_decay)


def rate(task, number):
    """A learning rate that differs by task and by the number of its step."""
    return 0.1 / (1 + task) / (1 + number)


def take(net, optimizer, grads, present, *, clip=None, counts=None):
    """Take a step as the loop does; give the norm it tells."""
    taken, counts = optimizer.steps.tolist(), counts or {}
    parts = {task: StepSettings(counts.get(task, 1), rate(task, taken[task])) for task in present}
    with optimizer.taking(present):
        give(net, grads, optimizer)
        optimizer.normalise(StepSettings(1, 0.02), parts)
        norm = optimizer.clip(clip)
        optimizer.step()
        optimizer.zero_grad()
    return norm


def train(net, algorithm, gradients, **options):
    """Take all steps; give the optimiser."""
    optimizer = per_task(net, algorithm)
    for grads, present in zip(gradients, PRESENT, strict=True):
        take(net, optimizer, grads, present, **options)
    return optimizer


def owned(net):
    return {name: parameter.detach().clone() for name, parameter in task_parameters(net)}


def train_alone(net, task, gradients, make):
    """Train a task's slices alone by an optimiser of torch's, over the steps in which it is present."""
    own = {name: nn.Parameter(table[task]) for name, table in owned(net).items()}
    optimizer = make(list(own.values()))
    steps = [grads for grads, present in zip(gradients, PRESENT, strict=True) if task in present]
    for number, grads in enumerate(steps):
        optimizer.param_groups[0]["lr"] = rate(task, number)
        for name, parameter in own.items():
            parameter.grad = grads[name][task].clone()
        optimizer.step()
    return own


def assert_slices(tables, task, own, **tolerance):
    for name, expected in own.items():
        torch.testing.assert_close(tables[name][task], expected.detach(), **tolerance)


@pytest.mark.parametrize("task", range(NUM_TASKS))
def test_adamw_of_a_task_is_torchs_on_its_slice_over_the_steps_it_is_in(net, gradients, task):
    def make(own):
        return torch.optim.AdamW(own, weight_decay=0.1)

    alone = train_alone(net, task, gradients, make)
    train(net, "adamw", gradients)
    assert_slices(owned(net), task, alone, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("task", range(NUM_TASKS))
def test_sgd_of_a_task_is_torchs_on_its_slice_over_the_steps_it_is_in(net, gradients, task):
    alone = train_alone(net, task, gradients, torch.optim.SGD)
    optimizer = per_task(net, "sgd", weight_decay=0.0)
    for grads, present in zip(gradients, PRESENT, strict=True):
        take(net, optimizer, grads, present)
    assert_slices(owned(net), task, alone, atol=1e-7, rtol=1e-6)


def test_weights_decay_beside_the_gradient_and_only_when_a_task_is_present(net, gradients):
    before = owned(net)
    take(net, per_task(net, "sgd"), {n: torch.zeros_like(p) for n, p in net.named_parameters()}, (0, 2))
    for name, table in owned(net).items():
        for task, factor in enumerate((1 - 0.1 * rate(0, 0), 1.0, 1 - 0.1 * rate(2, 0), 1.0)):
            torch.testing.assert_close(table[task], before[name][task] * factor)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("clip", [None, 0.5])
def test_a_task_takes_the_same_bits_whatever_other_tasks_there_are(net, gradients, algorithm, clip):
    alone = copy.deepcopy(net)
    optimizer = per_task(alone, algorithm)
    for grads, present in zip(gradients, PRESENT, strict=True):
        if 0 in present:
            take(alone, optimizer, grads, (0,), clip=clip)
    together = train(net, algorithm, gradients, clip=clip)
    for name, table in owned(net).items():
        assert torch.equal(table[0], owned(alone)[name][0])
    assert together.steps[0] == optimizer.steps[0]
    assert algorithm == "sgd" or torch.equal(together.moments[:, 0], optimizer.moments[:, 0])


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_step_leaves_weights_moments_and_count_of_an_absent_task_bit_unchanged(net, gradients, algorithm):
    optimizer = per_task(net, algorithm)
    for grads, present in zip(gradients, PRESENT, strict=True):
        weights, moments, steps = owned(net), optimizer.moments.clone(), optimizer.steps.clone()
        take(net, optimizer, grads, present)
        absent = [task for task in range(NUM_TASKS) if task not in present]
        assert all(torch.equal(table[absent], weights[name][absent]) for name, table in owned(net).items())
        assert torch.equal(optimizer.steps[absent], steps[absent])
        assert algorithm == "sgd" or torch.equal(optimizer.moments[:, absent], moments[:, absent])


def test_dense_adamw_would_have_moved_an_absent_task(net, gradients):
    before = owned(net)
    dense = torch.optim.AdamW([p for _, p in task_parameters(net)], weight_decay=0.1)
    give(net, gradients[0])
    dense.step()
    assert not torch.equal(owned(net)["down.weight"][3], before["down.weight"][3])


def test_the_gradients_of_a_step_are_those_of_the_tables_rows_of_its_tasks_alone(net):
    x, ids = torch.randn(5, 4, 5, generator=torch.Generator().manual_seed(2)), torch.tensor([3, 0, 3, 3, 0])

    def loss():
        return (net.up(net.down(x, ids), ids) ** 2).sum() + net.down.of(3)["weight"].sum()

    loss().backward()
    whole = {name: table.grad for name, table in task_parameters(net)}
    net.zero_grad()
    with taking(net, [0, 3]) as slices:
        loss().backward()
    assert all(table.grad is None for _, table in task_parameters(net))
    assert all(torch.equal(own.grad, whole[name][[0, 3]]) for name, own in slices.items())
    assert slices.keys() == whole.keys()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_steps_are_counted_by_task(net, gradients, algorithm):
    assert train(net, algorithm, gradients).steps.tolist() == [4, 2, 4, 0]


def test_the_gradient_of_each_task_is_clipped_by_itself(net, gradients):
    grads, optimizer = gradients[0], per_task(net, "sgd", weight_decay=0.0)
    for table in (name for name, _ in task_parameters(net)):
        grads[table][2] *= 1e-3  # far below the bound
    before = owned(net)
    norm = take(net, optimizer, grads, (0, 2), clip=0.5)
    own = {task: torch.cat([grads[name][task].flatten() for name in before]).norm() for task in (0, 2)}
    shared = torch.cat([grads[name].flatten() for name, _ in shared_parameters(net)]).norm()
    assert norm == pytest.approx(float(max(own[0], shared)))
    for name, table in owned(net).items():
        clipped, free = grads[name][0] * 0.5 / own[0], grads[name][2]
        torch.testing.assert_close(table[0], before[name][0] - rate(0, 0) * clipped)
        torch.testing.assert_close(table[2], before[name][2] - rate(2, 0) * free)


def test_the_shared_gradient_is_clipped_by_itself(net, gradients):
    before, grads = net.both.weight.detach().clone(), gradients[0]
    take(net, per_task(net, "sgd", weight_decay=0.0), grads, (0, 2), clip=0.5)
    norm = torch.cat([grads["both.weight"].flatten(), grads["both.bias"]]).norm()
    expected = before - 0.02 * grads["both.weight"] * 0.5 / norm
    torch.testing.assert_close(net.both.weight.detach(), expected)


def test_a_gradient_that_is_no_number_is_told_in_the_norm(net, gradients):
    gradients[0]["up.weight"][0, 0, 0] = math.nan
    assert math.isnan(take(net, per_task(net, "sgd"), gradients[0], (0, 2), clip=1.0))


def test_the_loss_of_each_task_is_averaged_over_its_own_utterances(net, gradients):
    before, optimizer = owned(net), per_task(net, "sgd", weight_decay=0.0)
    take(net, optimizer, gradients[0], (0, 2), counts={0: 3, 2: 8})
    for name, table in owned(net).items():
        for task, count in {0: 3, 2: 8}.items():
            expected = before[name][task] - rate(task, 0) * gradients[0][name][task] / count
            torch.testing.assert_close(table[task], expected)


def test_the_shared_loss_is_averaged_over_all_utterances(net, gradients):
    before, optimizer = net.both.weight.detach().clone(), per_task(net, "sgd", weight_decay=0.0)
    with optimizer.taking((0, 2)):
        give(net, gradients[0], optimizer)
        optimizer.normalise(StepSettings(11, 0.5), {0: StepSettings(3, 0.1), 2: StepSettings(8, 0.1)})
        optimizer.step()
    expected = before - 0.5 * gradients[0]["both.weight"] / 11
    torch.testing.assert_close(net.both.weight.detach(), expected)


def test_shared_weights_are_torchs_own_adamw(net, gradients):
    alone = copy.deepcopy(net.both)
    optimizer = torch.optim.AdamW(alone.parameters(), lr=0.02, weight_decay=0.1)
    for grads in gradients:
        give(alone, {name: grads[f"both.{name}"] for name in ("weight", "bias")})
        optimizer.step()
    train(net, "adamw", gradients)
    assert all(torch.equal(a, b) for a, b in zip(net.both.parameters(), alone.parameters(), strict=True))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_weights_without_gradients_stay_as_they_are(net, gradients, algorithm):
    frozen = {"up.weight", "both.bias"}
    for name in frozen:
        net.get_parameter(name).requires_grad_(False)
    before = copy.deepcopy(net.state_dict())
    train(net, algorithm, gradients)
    changed = {name for name, tensor in net.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == before.keys() - frozen


@pytest.mark.parametrize(("shared", "is_by_task"), [(True, False), (False, True)])
def test_training_is_by_task_where_nothing_trained_is_shared(net, shared, is_by_task):
    net.both.requires_grad_(shared)
    assert selects_by_task(net, "auto") == is_by_task
    assert not selects_by_task(net, "all")


def test_training_is_not_by_task_where_tasks_own_nothing(net):
    assert not selects_by_task(net.both, "auto")
    with pytest.raises(ConfigError, match=r"train\.select: speaker: .*share trained weights"):
        selects_by_task(net.both, "speaker")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_an_optimiser_with_restored_state_goes_on_as_the_other(net, gradients, algorithm):
    optimizer = train(net, algorithm, gradients)
    twin = copy.deepcopy(net)
    restored = per_task(twin, algorithm)
    restored.restore(copy.deepcopy(optimizer.tensors()))
    for one, own in ((net, optimizer), (twin, restored)):
        take(one, own, gradients[2], PRESENT[2])
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), twin.parameters(), strict=True))
    assert optimizer.tensors().keys() == restored.tensors().keys()
    assert all(torch.equal(t, restored.tensors()[name]) for name, t in optimizer.tensors().items())


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("to_start", [True, False])
def test_weights_under_a_constant_gradient_decay_as_the_closed_form_says(net, algorithm, to_start):
    # w <- w - l d (w - a) - l g: after n steps w - a = (1 - l d)^n (w_0 - a) - g / d (1 - (1 - l d)^n), where
    # AdamW's g is the sign of the gradient
    rate, decay, num_steps = 0.1, 0.5, 7
    start, gradient = copy.deepcopy(net.state_dict()), {n: p.sign() / 4 for n, p in net.named_parameters()}
    optimizer = PerTask(net, NUM_TASKS, algorithm=algorithm, weight_decay=decay, decays_to_start=to_start)
    for _ in range(num_steps):
        with optimizer.taking((0, 2)):
            give(net, gradient, optimizer)
            optimizer.normalise(StepSettings(1, rate), {task: StepSettings(1, rate) for task in (0, 2)})
            optimizer.step()
    left = (1 - rate * decay) ** num_steps
    for name, parameter in net.named_parameters():
        anchor = start[name] if to_start else torch.zeros_like(start[name])
        moved = gradient[name] if algorithm == "sgd" else gradient[name].sign()
        expected = anchor + left * (start[name] - anchor) - moved / decay * (1 - left)
        if name != "both.weight" and name != "both.bias":
            expected[[1, 3]] = start[name][[1, 3]]  # absent
        torch.testing.assert_close(parameter.detach(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_start_is_part_of_the_state(net, gradients, algorithm):
    def make(module):
        return PerTask(module, NUM_TASKS, algorithm=algorithm, weight_decay=0.1, decays_to_start=True)

    optimizer = make(net)
    take(net, optimizer, gradients[0], PRESENT[0])
    twin = copy.deepcopy(net)
    restored = make(twin)  # whose start is another
    restored.restore(copy.deepcopy(optimizer.tensors()))
    for one, own in ((net, optimizer), (twin, restored)):
        take(one, own, gradients[2], PRESENT[2])
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), twin.parameters(), strict=True))


def test_no_start_is_kept_without_weight_decay(net):
    optimizer = PerTask(net, NUM_TASKS, algorithm="sgd", weight_decay=0.0, decays_to_start=True)
    assert set(optimizer.tensors()) == {"steps", "moments"}
