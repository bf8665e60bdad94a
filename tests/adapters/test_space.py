"""Tasks whose weights are made of a few numbers each by a map that they share: theta_k = G e_k + g0."""

import copy
import pickle

import pytest
import torch

from adaptkit.adapters import api
from adaptkit.adapters.catalog import available
from adaptkit.adapters.kinds.residual import Config
from adaptkit.adapters.per_task import Hypernetwork, TaskLinear, shared_parameters, task_parameters
from adaptkit.adapters.site import Site
from adaptkit.base.fold import fold
from adaptkit.errors import ConfigError
from adaptkit.model import checkpoint
from adaptkit.model.adapted import AdaptedModel

SPACE = {"bank": "space", "space_dim": 2}
SITE = Site("encoder.encoders.0", "block", 0, 2, 2)
OWNED = ["0.space.codes.table"]
ALL_TASKS = (0, 1, 2)
every_kind = pytest.mark.parametrize("kind", available())


def residual(tasks=("a", "b"), seed=0, **options):
    """One residual adapter of one block of width 2, with a space."""
    return api.build([Config(**{"bottleneck": 1, **SPACE, **options})], [SITE], tasks, seed=seed)


def perturbed(stack, std=0.3):
    """Move every weight a little from where it was drawn, but for the codes."""
    generator = torch.Generator().manual_seed(1)
    for _, parameter in shared_parameters(stack):
        parameter.data += std * torch.randn(parameter.shape, generator=generator)
    return stack


# one map


@pytest.fixture
def linear():
    """y = W^T x + c of 2 numbers to 1 for three tasks, with a space of 2 dimensions; and the space."""
    linear = TaskLinear(1, 2, 1)
    linear.weight.data[0], linear.bias.data[0] = torch.tensor([[1.0], [2.0]]), torch.tensor([3.0])  # g0
    space = Hypernetwork(linear, 3, 2)
    space.codes.table.data = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, -1.0]]) / 32  # as they are kept
    space.basis.data = torch.tensor([[0.5, 0.0, 10.0], [0.0, -1.0, 20.0]])  # W, then c
    return linear, space


def test_the_weights_of_each_row_are_by_hand(linear):
    linear, space = linear
    task_ids = torch.tensor([2, 0])
    space.make(task_ids)
    y = linear(torch.tensor([[[1.0, 1.0]], [[1.0, -1.0]]]), task_ids)
    # task 2: W = (1 + 2 * 0.5, 2 + 1), c = 3 + 20 - 20; task 0: W = (1.5, 2), c = 13
    assert torch.equal(y, torch.tensor([[[2.0 + 3.0 + 3.0]], [[1.5 - 2.0 + 13.0]]]))


def test_the_weights_of_a_task_alone_are_those_of_its_rows(linear):
    linear, space = linear
    with space.alone(2):
        own = linear.of(2)
    assert torch.equal(own["weight"], torch.tensor([[2.0], [3.0]]))
    assert torch.equal(own["bias"], torch.tensor([3.0]))


def test_rows_weights_are_let_go_of(linear):
    linear, space = linear
    with pytest.raises(KeyError), space.alone(1):
        raise KeyError
    assert linear.made is None


def test_gradients_reach_codes_basis_and_origin_and_are_those_of_finite_differences(linear):
    linear, space = linear
    space.double()
    task_ids, x = torch.tensor([2, 0, 2]), torch.randn(3, 4, 2, dtype=torch.float64)

    def run(*weights):
        space.make(task_ids)
        return linear(x, task_ids)

    assert torch.autograd.gradcheck(run, tuple(space.parameters()))


def test_a_space_takes_the_place_of_tables(linear):
    linear, space = linear
    assert not list(linear.parameters())
    assert {name: tuple(p.shape) for name, p in space.named_parameters()} == {
        "codes.table": (3, 2),
        "basis": (2, 3),
        "origin": (3,),
    }


# adapters


def test_one_code_per_task_makes_all_weights_of_an_adapter():
    stack = perturbed(residual())
    site, x = SITE, torch.randn(2, 5, 2, generator=torch.Generator().manual_seed(0))
    table = residual(bank="table", space_dim=None)
    space = stack[0].space
    theta = 32 * space.codes.table @ space.basis + space.origin  # (K, P)
    sizes = [p[0].numel() for p in table.parameters()]
    for parameter, own in zip(table.parameters(), theta.split(sizes, dim=1), strict=True):
        parameter.data = own.reshape(parameter.shape)
    with stack.for_tasks((1, 0)), table.for_tasks((1, 0)):
        torch.testing.assert_close(stack.adapt(site, x, x), table.adapt(site, x, x))


@pytest.mark.parametrize(("num_tasks", "dim", "bottleneck"), [(1, 1, 1), (5, 3, 2), (100, 16, 8)])
def test_numbers_are_the_closed_form(num_tasks, dim, bottleneck):
    stack = residual([f"spk{task}" for task in range(num_tasks)], space_dim=dim, bottleneck=bottleneck)
    per_task = 2 * 2 * bottleneck + bottleneck + 2  # P = 2DR + R + D
    numbers = sum(parameter.numel() for parameter in stack.parameters())
    assert numbers == num_tasks * dim + dim * per_task + per_task  # K E + E P + P
    assert stack.num_per_task == dim


def test_a_task_starts_alike_whatever_other_tasks_there_are():
    one, many = residual(["b"]), residual(["a", "b", "c"])
    assert torch.equal(one[0].space.codes.table[0], many[0].space.codes.table[1])
    assert torch.equal(one[0].space.origin, many[0].space.origin)


def test_tasks_and_seeds_do_not_start_alike():
    first, second = residual()[0].space.codes.table
    assert not torch.equal(first, second)
    assert not torch.equal(first, residual(seed=1)[0].space.codes.table[0])
    assert not torch.equal(residual()[0].space.origin, residual(seed=1)[0].space.origin)


def test_codes_are_about_one_long():
    codes = residual([f"spk{task}" for task in range(200)], space_dim=64)[0].space.codes.table.detach()
    assert float(32 * codes.norm(dim=1).mean()) == pytest.approx(1.0, abs=0.05)


@every_kind
def test_a_task_owns_its_code_alone(base, kind, new_stack):
    plain, stack = new_stack(base, kind), new_stack(base, kind, **SPACE)
    numbers = plain.num_per_task
    shared = {name: tuple(p.shape) for name, p in shared_parameters(stack)}
    assert [name for name, _ in task_parameters(stack)] == OWNED
    assert (shared.pop("0.space.basis"), shared.pop("0.space.origin")) == ((2, numbers), (numbers,))
    assert shared == {name: tuple(p.shape) for name, p in shared_parameters(plain)}


@every_kind
def test_a_space_of_one_number_can_be_every_table_of_a_task(base, kind, new_stack, new_batch, encode):
    table, space = new_stack(base, kind, is_trained=True), new_stack(base, kind, bank="space", space_dim=1)
    theta = torch.cat([p.detach()[0].flatten() for _, p in task_parameters(table)])  # spk1
    with torch.no_grad():
        space[0].space.origin.zero_()
        space[0].space.basis[0] = theta
        space[0].space.codes.table[:] = torch.tensor([[1.0], [-1.0], [0.5]]) / 32
        for (_, own), (_, others) in zip(
            [pair for pair in shared_parameters(space) if ".space." not in pair[0]],
            shared_parameters(table),
            strict=True,
        ):
            own.copy_(others)
    batch = new_batch((0, 0, 0))
    assert torch.equal(encode(base, space, batch), encode(base, table, batch))


@every_kind
def test_an_untrained_adapter_with_a_space_changes_nothing(variant, kind, new_stack, new_batch, encode):
    batch = new_batch(ALL_TASKS)
    adapted = encode(variant, new_stack(variant, kind, **SPACE), batch)
    assert torch.equal(adapted, encode(variant, None, batch))


@every_kind
def test_basis_and_codes_learn_within_two_steps(base, kind, new_stack, new_batch):
    adapted = AdaptedModel(base, new_stack(base, kind, **SPACE)).train()
    optimizer, moved = torch.optim.SGD([p for p in adapted.parameters() if p.requires_grad], lr=0.1), []
    with adapted.hooked():
        for _ in range(2):
            optimizer.zero_grad()
            adapted.loss(new_batch(ALL_TASKS)).backward()
            moved.append({n for n, p in adapted.adapters.named_parameters() if p.grad.any()})
            optimizer.step()
    assert "0.space.codes.table" not in moved[0]  # nothing depends on them while the basis is zero
    assert {"0.space.basis", "0.space.origin"} <= moved[0]
    assert moved[0] | moved[1] == {name for name, _ in adapted.adapters.named_parameters()}
    assert adapted.adapters[0].space.codes.table.grad.any(dim=1).all()


@pytest.mark.parametrize("kind", ["full", "bitfit", "lora", "tpa"])
def test_an_adapter_with_a_space_folds_into_the_base(base, kind, new_stack, new_batch, encode):
    options = {"tpa": {"input": "normed", "activation": "swish"}}.get(kind, {})
    stack = perturbed(new_stack(base, kind, **SPACE, **options), std=0.1).requires_grad_(False)
    folded, batch = fold(base, stack, "spk10"), new_batch((1, 1))
    expected = encode(base, stack, batch)
    torch.testing.assert_close(encode(folded, None, batch), expected, atol=2e-5, rtol=1e-4)
    assert (expected - encode(base, None, batch)).abs().max() > 1e-2


@every_kind
def test_a_copy_and_a_pickle_use_weights_of_their_own(base, kind, new_stack, new_batch, encode):
    stack, batch = new_stack(base, kind, is_trained=True, **SPACE), new_batch(ALL_TASKS)
    expected = encode(base, stack, batch)
    for twin in (copy.deepcopy(stack), pickle.loads(pickle.dumps(stack))):
        assert torch.equal(encode(base, twin, batch), expected)
        twin[0].space.origin.data.zero_()
        assert not torch.equal(encode(base, twin, batch), expected)
        assert torch.equal(encode(base, stack, batch), expected)


def test_a_file_of_an_adapter_with_a_space_says_so(base, new_stack, tmp_path):
    stack, path = new_stack(base, **SPACE), tmp_path / "adapter.safetensors"
    checkpoint.save(path, stack, base.fingerprint, 0, stack.state_dict())
    (entry,) = checkpoint.load(path).adapters
    assert (entry.bank, entry.space_dim) == ("space", 2)


def test_an_adapter_of_another_dimension_is_refused(base, new_stack, tmp_path):
    stack, other = new_stack(base, **SPACE), new_stack(base, bank="space", space_dim=3)
    with pytest.raises(RuntimeError, match="size mismatch for 0.space.basis"):
        stack.load_state_dict(other.state_dict())


# options


@pytest.mark.parametrize("kind", ["full", "bitfit"])
def test_a_space_for_a_kind_of_which_tasks_own_nothing_is_refused(base, kind, new_stack):
    expected = f"adapter '{kind}': 'bank: space' generates per-speaker weights, and there are none; set 'bank"
    with pytest.raises(ConfigError, match=expected):
        new_stack(base, kind, per_task=False, **SPACE)


def test_a_space_without_a_size_is_refused():
    with pytest.raises(ValueError, match="'bank: space' needs 'space_dim'"):
        api.read_config({"kind": "residual", "bank": "space"})


def test_a_size_without_a_space_is_refused():
    with pytest.raises(ValueError, match="'space_dim: 4' has no effect with 'bank: table'; remove it"):
        api.read_config({"kind": "residual", "space_dim": 4})


@pytest.mark.parametrize("wrong", [{"bank": "spaces", "space_dim": 4}, {"bank": "space", "space_dim": 0}])
def test_a_bank_that_is_not_there_and_an_empty_space_are_refused(wrong):
    with pytest.raises(ValueError, match=r"bank|space_dim"):
        api.read_config({"kind": "residual", **wrong})
