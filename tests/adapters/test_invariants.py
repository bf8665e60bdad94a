"""What every kind of adapter is held to, on every encoder; a new kind is tested by being there."""

import copy
import functools
import gc
import pickle
from dataclasses import replace

import pytest
import torch

from adaptkit.adapters import api
from adaptkit.adapters.api import Adapter
from adaptkit.adapters.catalog import available
from adaptkit.adapters.per_task import task_parameters
from adaptkit.base.sites import attached
from adaptkit.errors import CheckpointError, ConfigError
from adaptkit.model import checkpoint
from adaptkit.model.adapted import AdaptedModel
from adaptkit.training.precision import autocast

ALL_TASKS = (0, 1, 2)  # spk1, spk10, spk2


@pytest.fixture(params=available())
def kind(request):
    """Each kind there is."""
    return request.param


@pytest.fixture
def new_stack(new_stack, bank):
    """Build adapters with each bank."""
    return functools.partial(new_stack, **bank)


@pytest.fixture
def own_variant(variant):
    """A copy of a base model that a test may change."""
    return replace(variant, model=copy.deepcopy(variant.model))


def take_steps(adapted, batch, num_steps, lr=0.1):
    """Train; give the names of the parameters that ever had a gradient other than zero."""
    optimizer = torch.optim.SGD([p for p in adapted.parameters() if p.requires_grad], lr=lr)
    moved = set()
    with adapted.train().hooked():
        for _ in range(num_steps):
            optimizer.zero_grad()
            adapted.loss(batch).backward()
            moved |= {n for n, p in adapted.named_parameters() if p.grad is not None and p.grad.any()}
            optimizer.step()
    return moved


def hooks_of(model):
    """Count the hooks on every module."""
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_untrained_adapter_changes_nothing(variant, kind, new_stack, new_batch, encode):
    batch = new_batch(ALL_TASKS)
    adapted = encode(variant, new_stack(variant, kind), batch)
    assert torch.equal(adapted, encode(variant, None, batch))


def test_trained_adapter_changes_the_output(variant, kind, new_stack, new_batch, encode):
    batch = new_batch(ALL_TASKS)
    adapted = encode(variant, new_stack(variant, kind, is_trained=True), batch)
    assert not torch.allclose(adapted, encode(variant, None, batch), atol=1e-3)


def test_every_adapter_parameter_learns_within_two_steps_and_no_other(variant, kind, new_stack, new_batch):
    stack = new_stack(variant, kind)
    moved = take_steps(AdaptedModel(variant, stack), new_batch(ALL_TASKS), num_steps=2)
    assert moved == {f"adapters.{name}" for name, _ in stack.named_parameters()}


def test_base_is_bit_equal_after_three_steps(own_variant, kind, new_stack, new_batch):
    before = copy.deepcopy(own_variant.model.state_dict())
    take_steps(AdaptedModel(own_variant, new_stack(own_variant, kind)), new_batch(ALL_TASKS), num_steps=3)
    after = own_variant.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_saved_keys_are_the_adapters_own(base, kind, new_stack, tmp_path):
    stack = new_stack(base, kind)
    checkpoint.save(tmp_path / "a.safetensors", stack, base.fingerprint, 0, stack.state_dict())
    saved = checkpoint.load(tmp_path / "a.safetensors").weights.keys()
    assert saved == {name for name, _ in stack.named_parameters()}


def test_a_saved_adapter_is_loaded_to_the_same_output(variant, kind, new_stack, new_batch, encode, tmp_path):
    stack, path = new_stack(variant, kind, is_trained=True), tmp_path / "adapter.safetensors"
    checkpoint.save(path, stack, variant.fingerprint, 7, stack.state_dict())
    restored = checkpoint.restore(checkpoint.load(path), variant, path)
    batch = new_batch(ALL_TASKS)
    assert torch.equal(encode(variant, restored, batch), encode(variant, stack, batch))


def test_an_adapter_of_another_base_is_refused(new_base, base, kind, new_stack, tmp_path):
    stack, path = new_stack(base, kind), tmp_path / "adapter.safetensors"
    checkpoint.save(path, stack, base.fingerprint, 0, stack.state_dict())
    with pytest.raises(CheckpointError, match=f"trained on base model {base.fingerprint}"):
        checkpoint.restore(checkpoint.load(path), new_base(seed=1), path)


def test_detached_base_is_as_before(variant, kind, new_stack, new_batch, encode):
    batch, before = new_batch(ALL_TASKS), hooks_of(variant.model)
    expected = encode(variant, None, batch)
    encode(variant, new_stack(variant, kind, is_trained=True), batch)
    assert hooks_of(variant.model) == before
    assert torch.equal(encode(variant, None, batch), expected)


def test_an_exception_inside_restores_the_base(variant, kind, new_stack, new_batch):
    before = hooks_of(variant.model)
    adapted = AdaptedModel(variant, new_stack(variant, kind))
    broken = replace(new_batch(ALL_TASKS), inputs=torch.zeros(3, 60, 7))  # 7 bins, not 20
    with pytest.raises(RuntimeError), adapted.hooked():
        adapted.loss(broken)
    assert hooks_of(variant.model) == before


def test_a_failed_forward_leaves_no_task_chosen(base, kind, new_stack, new_batch):
    stack = new_stack(base, kind)
    adapted = AdaptedModel(base, stack)
    with pytest.raises(RuntimeError), adapted.hooked():
        adapted.loss(replace(new_batch(ALL_TASKS), inputs=torch.zeros(3, 60, 7)))
    assert all(member.task_ids is None for member in stack)


def test_a_deep_copy_is_independent(own_variant, kind, new_stack, new_batch):
    adapted = AdaptedModel(own_variant, new_stack(own_variant, kind, is_trained=True)).eval()
    batch = new_batch(ALL_TASKS)
    with torch.no_grad(), adapted.hooked():
        expected = adapted.loss(batch)
        twin = copy.deepcopy(adapted)
        for parameter in twin.parameters():
            parameter.zero_()
        assert torch.equal(adapted.loss(batch), expected)
        assert not torch.equal(twin(batch), expected)


def test_a_pickle_is_independent_and_the_same(variant, kind, new_stack, new_batch, encode):
    stack, batch = new_stack(variant, kind, is_trained=True), new_batch(ALL_TASKS)
    twin = pickle.loads(pickle.dumps(stack))
    assert torch.equal(encode(variant, twin, batch), encode(variant, stack, batch))
    twin.load_state_dict({name: torch.zeros_like(t) for name, t in twin.state_dict().items()})
    assert not torch.equal(encode(variant, twin, batch), encode(variant, stack, batch))


def test_changing_one_task_leaves_another_bit_equal(variant, kind, new_stack, new_batch, encode):
    stack, batch = new_stack(variant, kind, is_trained=True), new_batch(ALL_TASKS)
    before = encode(variant, stack, batch)
    for _, parameter in task_parameters(stack):
        parameter.data[0] += 1.0  # spk1
    after = encode(variant, stack, batch)
    assert not torch.equal(after[0], before[0])
    assert torch.equal(after[1:], before[1:])  # spk10 and spk2


def test_a_row_of_a_mixed_batch_is_as_in_a_batch_of_its_task(variant, kind, new_stack, new_batch, encode):
    stack = new_stack(variant, kind, is_trained=True)
    mixed = new_batch(ALL_TASKS)
    together = encode(variant, stack, mixed)
    for row, task in enumerate(ALL_TASKS):
        alone = encode(variant, stack, replace(mixed, task_ids=(task,) * 3))
        assert torch.equal(together[row], alone[row])


def test_a_base_row_in_a_mixed_batch_is_the_base(variant, kind, new_stack, new_batch, encode):
    stack, batch = new_stack(variant, kind, is_trained=True), new_batch((0, -1, 2))
    adapted, plain = encode(variant, stack, batch), encode(variant, None, batch)
    assert torch.equal(adapted[1], plain[1])
    assert not torch.equal(adapted[0], plain[0])


def test_permuting_rows_permutes_outputs(variant, kind, new_stack, new_batch, encode):
    stack, batch = new_stack(variant, kind, is_trained=True), new_batch(ALL_TASKS, length=50)
    permuted = encode(variant, stack, batch.rows([2, 0, 1]))
    torch.testing.assert_close(permuted, encode(variant, stack, batch)[[2, 0, 1]], atol=1e-5, rtol=1e-5)


def test_swapping_adapters_leaves_no_trace(variant, kind, new_stack, new_batch, encode):
    first, batch = new_stack(variant, kind, is_trained=True), new_batch(ALL_TASKS)
    expected = encode(variant, first, batch)
    encode(variant, new_stack(variant, kind), batch)
    assert torch.equal(encode(variant, first, batch), expected)


def test_task_ids_outside_the_tasks_are_refused(base, kind, new_stack):
    with (
        pytest.raises(ValueError, match=r"\[3\] are outside the 3 tasks"),
        new_stack(base, kind).for_tasks((0, 3)),
    ):
        pass


def test_no_activation_outlives_the_forward_pass(variant, kind, new_stack, new_batch):
    adapted = AdaptedModel(variant, new_stack(variant, kind)).train()
    with adapted.hooked():
        adapted.loss(new_batch(ALL_TASKS)).backward()  # frees what the graph alone keeps
        gc.collect()
        assert not [t for t in gc.get_objects() if type(t) is torch.Tensor and t.grad_fn is not None]


def test_bfloat16_is_finite_and_close(variant, kind, new_stack, new_batch, encode):
    stack, batch = new_stack(variant, kind, is_trained=True), new_batch(ALL_TASKS)
    expected = encode(variant, stack, batch)
    with autocast(torch.device("cpu"), "bfloat16"):
        coarse = encode(variant, stack, batch).float()
    assert torch.isfinite(coarse).all()
    assert (
        coarse - expected
    ).abs().mean() < 0.1  # outputs are normalised; bfloat16 keeps 8 bits of each step


def test_an_adapter_that_acts_nowhere_is_an_error(kind, base):
    config = api.read_config({"kind": kind})
    with pytest.raises(ConfigError, match=f"'{kind}' acts on sites of kind .* this base model has none"):
        api.build([config], [], ["spk1"], seed=0)


def test_the_same_seed_gives_the_same_weights_whatever_was_drawn_before(base, kind):
    config = api.read_config({"kind": kind})
    first = api.build([config], base.sites, ["spk1"], seed=3).state_dict()
    torch.rand(5)
    again = api.build([config], base.sites, ["spk1"], seed=3).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)


@pytest.mark.slow
def test_a_resumed_run_is_the_uninterrupted_one(kind, new_run, assert_same):
    whole, resumed = new_run("whole", kind, save_every_steps=2), new_run("run", kind, save_every_steps=2)
    whole.fit()
    new_run("run", kind, save_every_steps=2, stop=1).fit_until_stopped()
    resumed.fit(resume=True)
    assert_same(resumed.saved(), whole.saved())


def test_every_kind_is_an_adapter_with_a_config_of_its_name(kind, base):
    module = api.load_kind(kind)
    config = module.Config()
    assert config.kind == kind
    assert isinstance(module.build(config, base.sites, 2), Adapter)


def test_attached_hooks_are_removed_in_any_case(variant, kind, new_stack):
    before = hooks_of(variant.model)
    with attached(variant.model, new_stack(variant, kind), variant.sites):
        assert hooks_of(variant.model) > before
    assert hooks_of(variant.model) == before
