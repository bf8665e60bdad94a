"""Mistakes that are easily made around ESPnet's encoders, each with the test that catches it."""

import copy
from dataclasses import replace

import pytest
import torch
from torch.utils.checkpoint import checkpoint as recomputing

from adaptkit.adapters import api
from adaptkit.errors import ConfigError
from adaptkit.model.adapted import Objective

pytestmark = pytest.mark.espnet
TASKS = (0, 1, 2)
SIZES = {"output_size": 16, "attention_heads": 2, "linear_units": 24, "num_blocks": 2}
FFNS = {"use_ffn": True, "macaron_ffn": True, "gradient_checkpoint_layers": [1, 2]}
CHECKPOINTED = {"encoder": "e_branchformer", "encoder_conf": {**SIZES, **FFNS}}


@pytest.fixture(params=api.available())
def kind(request):
    """Each kind there is."""
    return request.param


def step(objective, batch):
    with objective.train().hooked():
        objective(batch).backward()


def statistics(model):
    return {name: tensor.clone() for name, tensor in model.named_buffers() if "running" in name}


def test_batch_statistics_of_a_frozen_base_stay(base, kind, new_stack, new_batch):
    own = replace(base, model=copy.deepcopy(base.model))
    before = statistics(own.model)
    step(Objective(own, new_stack(own, kind)), new_batch(TASKS))
    after = statistics(own.model)
    assert before
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_batch_statistics_would_move_in_train_even_if_every_parameter_is_frozen(base, new_batch):
    own = replace(base, model=copy.deepcopy(base.model).train())
    before, batch = statistics(own.model), new_batch(TASKS)
    with torch.no_grad():
        own.model.encode(batch.inputs.clone(), batch.lengths)
    assert not all(torch.equal(before[name], tensor) for name, tensor in statistics(own.model).items())


def test_a_deep_copy_within_hooks_calls_its_own_adapter(base, kind, new_stack, new_batch):
    objective, batch = Objective(base, new_stack(base, kind, is_trained=True)).eval(), new_batch(TASKS)
    with torch.no_grad(), objective.hooked():
        twin = copy.deepcopy(objective)
        expected = twin(batch)
        for parameter in objective.adapters.parameters():
            parameter.zero_()
        assert torch.equal(twin(batch), expected)


def test_a_deep_copy_after_a_training_step_is_possible(base, kind, new_stack, new_batch):
    objective, batch = Objective(base, new_stack(base, kind, is_trained=True)), new_batch(TASKS)
    with objective.train().hooked():
        objective(batch).backward()
        twin = copy.deepcopy(objective).eval()
        with torch.no_grad():
            assert torch.equal(twin(batch), objective.eval()(batch))


def test_activation_checkpointing_of_the_base_is_refused(new_base, kind, new_stack, new_batch):
    base = new_base(**CHECKPOINTED)
    with pytest.raises(ConfigError, match="activation checkpointing"):
        step(Objective(base, new_stack(base, kind)), new_batch(TASKS))


def test_a_checkpointed_base_decodes(new_base, kind, new_stack, new_batch):
    base = new_base(**CHECKPOINTED)
    objective = Objective(base, new_stack(base, kind, is_trained=True)).eval()
    with torch.no_grad(), objective.hooked():
        assert len(objective.search(new_batch(TASKS))) == 3


def test_blocks_that_are_run_again_in_the_backward_pass_are_refused(base, new_stack, new_batch):
    stack = new_stack(base, "residual", is_trained=True)
    objective = Objective(base, stack)
    wrapped = lambda *args: recomputing(base.model.encoder, *args, use_reentrant=False)  # noqa: E731
    batch = new_batch(TASKS)
    with objective.train().hooked(), stack.for_tasks(TASKS):
        inputs = torch.randn(3, 60, 20, requires_grad=True)
        encoded, *_ = wrapped(inputs, batch.lengths)
    with objective.hooked(), pytest.raises(ConfigError, match="activation checkpointing"):
        encoded.sum().backward()
