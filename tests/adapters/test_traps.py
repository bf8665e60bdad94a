"""Mistakes that are easily made around ESPnet's encoders, each with the test that catches it."""

import copy
from dataclasses import replace

import pytest
import torch
from torch.utils.checkpoint import checkpoint as recomputing

from adaptkit.adapters.catalog import available
from adaptkit.errors import ConfigError
from adaptkit.model.adapted import AdaptedModel

TASKS = (0, 1, 2)
SIZES = {"output_size": 16, "attention_heads": 2, "linear_units": 24, "num_blocks": 2}
FFNS = {"use_ffn": True, "macaron_ffn": True, "gradient_checkpoint_layers": [1, 2]}
CHECKPOINTED = {"encoder": "e_branchformer", "encoder_conf": {**SIZES, **FFNS}}


@pytest.fixture(params=available())
def kind(request):
    """Each kind there is."""
    return request.param


def step(adapted, batch):
    with adapted.train().hooked():
        adapted.loss(batch).backward()


def statistics(model):
    return {name: tensor.clone() for name, tensor in model.named_buffers() if "running" in name}


def test_batch_statistics_of_a_frozen_base_stay(base, kind, new_stack, new_batch):
    own = replace(base, model=copy.deepcopy(base.model))
    before = statistics(own.model)
    step(AdaptedModel(own, new_stack(own, kind)), new_batch(TASKS))
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
    adapted, batch = AdaptedModel(base, new_stack(base, kind, is_trained=True)).eval(), new_batch(TASKS)
    with torch.no_grad(), adapted.hooked():
        twin = copy.deepcopy(adapted)
        expected = twin(batch)
        for parameter in adapted.adapters.parameters():
            parameter.zero_()
        assert torch.equal(twin(batch), expected)


def test_a_deep_copy_after_a_training_step_is_possible(base, kind, new_stack, new_batch):
    adapted, batch = AdaptedModel(base, new_stack(base, kind, is_trained=True)), new_batch(TASKS)
    with adapted.train().hooked():
        adapted.loss(batch).backward()
        twin = copy.deepcopy(adapted).eval()
        with torch.no_grad():
            assert torch.equal(twin(batch), adapted.eval()(batch))


def test_gradients_in_a_base_with_activation_checkpointing_are_those_without(
    new_base, kind, new_stack, new_batch
):
    found = {}
    for layers in ([1, 2], []):
        conf = {**CHECKPOINTED["encoder_conf"], "gradient_checkpoint_layers": layers}
        base = new_base(encoder="e_branchformer", encoder_conf=conf)
        stack = new_stack(base, kind, is_trained=True)
        step(AdaptedModel(base, stack), new_batch(TASKS))
        found[len(layers)] = {name: p.grad for name, p in stack.named_parameters() if p.grad is not None}
    assert found[2].keys() == found[0].keys()
    assert all(torch.equal(found[2][name], found[0][name]) for name in found[0])


def test_a_checkpointed_base_decodes(new_base, kind, new_stack, new_batch):
    base = new_base(**CHECKPOINTED)
    adapted = AdaptedModel(base, new_stack(base, kind, is_trained=True)).eval()
    with torch.no_grad(), adapted.hooked():
        assert len(adapted.recognise(new_batch(TASKS))) == 3


def test_blocks_that_are_run_again_in_the_backward_pass_are_refused(base, new_stack, new_batch):
    stack = new_stack(base, "residual", is_trained=True)
    adapted = AdaptedModel(base, stack)
    wrapped = lambda *args: recomputing(base.model.encoder, *args, use_reentrant=False)  # noqa: E731
    batch = new_batch(TASKS)
    with adapted.train().hooked(), stack.for_tasks(TASKS):
        inputs = torch.randn(3, 60, 20, requires_grad=True)
        encoded, *_ = wrapped(inputs, batch.lengths)
    with adapted.hooked(), pytest.raises(ConfigError, match="activation checkpointing"):
        encoded.sum().backward()
