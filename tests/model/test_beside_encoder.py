"""Adapters that spare the encoder: as if they acted inside it, and nothing of it is kept for the way back."""

import copy
from contextlib import contextmanager

import pytest
import torch

from adaptkit.adapters.api import AdapterStack
from adaptkit.model.adapted import AdaptedModel
from tests.fixtures.models import VARIANTS

ALL_TASKS = (0, 1, 2)


def gradients(adapted, batch):
    """Return the loss and its gradients by the names of parameters, all it reaches."""
    adapted.train().zero_grad()
    with adapted.hooked():
        loss = adapted.loss(batch)
        loss.backward()
    return loss.detach(), {name: p.grad for name, p in adapted.named_parameters() if p.grad is not None}


def by_hooks(base, stack):
    """The adapted of a copy of some adapters, as if they acted inside the encoder."""
    twin = copy.deepcopy(stack)
    twin[0].spares_encoder = False
    return AdaptedModel(base, twin)


def graph_of(loss):
    """Every node from a loss back."""
    nodes, left = set(), [loss.grad_fn]
    while left:
        node = left.pop()
        if node is not None and node not in nodes:
            nodes.add(node)
            left.extend(before for before, _ in node.next_functions)
    return nodes


def saved_bytes(adapted, batch):
    """Count the bytes that a pass keeps for the way back."""
    kept = {}
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.setdefault(id(t), t), lambda t: t):
        adapted.train()(batch)
    return sum(tensor.nbytes for tensor in kept.values())


@contextmanager
def never_run(module):
    """Fail if a module is run."""
    hook = module.register_forward_pre_hook(lambda module, args: pytest.fail("it was run"))
    try:
        yield
    finally:
        hook.remove()


@pytest.fixture
def with_blocks(new_base, new_stack):
    """The adapted of some adapters on a tiny Conformer of so many blocks."""
    conf = {"output_size": 16, "attention_heads": 2, "linear_units": 24, "rel_pos_type": "latest"}

    def make(num_blocks, kind, **options):
        base = new_base(encoder_conf={**conf, "num_blocks": num_blocks})
        return AdaptedModel(base, new_stack(base, kind, is_trained=True, **options))

    return make


def test_sparing_the_encoder_changes_no_output_and_no_gradient(variant, new_stack, new_batch):
    batch, stack = new_batch((0, -1, 2)), new_stack(variant, "hff", is_trained=True)
    beside, inside = AdaptedModel(variant, stack), by_hooks(variant, stack)
    found, expected = (gradients(adapted, batch)[1] for adapted in (beside, inside))
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient)
    with torch.no_grad(), beside.hooked():
        encoded = beside.encode(batch)
    with torch.no_grad(), inside.hooked():
        assert all(torch.equal(*pair) for pair in zip(encoded, inside.encode(batch), strict=True))


def test_loss_beside_the_encoder_has_the_terms_of_intermediate_ctc(new_base, new_stack, new_batch):
    base, batch = new_base(**VARIANTS["interctc"]), new_batch(ALL_TASKS)
    losses = []
    for adapted in (AdaptedModel(base, new_stack(base, kind)) for kind in ("hff", "residual", "full")):
        with torch.no_grad(), adapted.hooked():
            losses.append(adapted.loss(batch))
    assert base.model.interctc_weight > 0
    for loss in losses:
        torch.testing.assert_close(loss, losses[1])


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_sparing_the_encoder_changes_no_loss(new_base, new_stack, new_batch, weight):
    conf = {"attention_heads": 2, "linear_units": 16, "num_blocks": 1}
    base = new_base(decoder="transformer", decoder_conf=conf, model_conf={"ctc_weight": weight})
    stack, batch = new_stack(base, "hff", is_trained=True), new_batch(ALL_TASKS)
    (found, _), (expected, _) = (
        gradients(o, batch) for o in (AdaptedModel(base, stack), by_hooks(base, stack))
    )
    torch.testing.assert_close(found, expected)


def test_weights_after_the_encoder_change_beside_it_as_they_would_inside(base, new_stack, new_batch):
    ctc = new_stack(base, "full", is_trained=True, parts=["ctc"])
    fused = new_stack(base, "hff", is_trained=True)
    stack = AdapterStack([*ctc, *fused], [*ctc.configs, *fused.configs], ctc.tasks)
    beside, inside, batch = AdaptedModel(base, stack), by_hooks(base, stack), new_batch((0, 2, -1))
    assert beside.taps
    (loss, found), (expected_loss, expected) = (gradients(o, batch) for o in (beside, inside))
    torch.testing.assert_close(loss, expected_loss)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-3, rtol=1e-4)  # the largest is 73
    with torch.no_grad(), beside.hooked():
        found = beside.recognise(batch)
    with torch.no_grad(), inside.hooked():
        assert found == inside.recognise(batch)


def test_nothing_of_the_encoder_is_in_the_graph(base, new_stack, new_batch):
    stack = new_stack(base, "hff", is_trained=True)
    adapted = AdaptedModel(base, stack).train()
    with adapted.hooked():
        nodes = graph_of(adapted.loss(new_batch(ALL_TASKS)))
    leaves = [node.variable for node in nodes if hasattr(node, "variable")]
    assert {id(leaf) for leaf in leaves} == {id(parameter) for parameter in stack.parameters()}
    assert adapted.read_taps(new_batch(ALL_TASKS)).inputs.grad_fn is None


def test_the_graph_and_what_it_keeps_do_not_grow_with_blocks(with_blocks, new_batch):
    shallow, deep = (with_blocks(num_blocks, "hff", taps=(0, 1)) for num_blocks in (2, 6))
    batch = new_batch(ALL_TASKS)
    assert len(graph_of(shallow(batch))) == len(graph_of(deep(batch)))
    assert saved_bytes(shallow, batch) == saved_bytes(deep, batch)


def test_a_kind_inside_the_encoder_keeps_more_with_every_block(with_blocks, new_batch):
    shallow, deep = (with_blocks(num_blocks, "residual", blocks=(0,)) for num_blocks in (2, 6))
    batch = new_batch(ALL_TASKS)
    with shallow.hooked(), deep.hooked():
        assert saved_bytes(deep, batch) > 2 * saved_bytes(shallow, batch)


def test_a_batch_that_was_read_gives_the_same_without_the_encoder(base, new_stack, new_batch):
    adapted, batch = AdaptedModel(base, new_stack(base, "hff", is_trained=True)), new_batch((0, -1, 2))
    expected, _ = gradients(adapted, batch)
    with adapted.hooked():
        read = adapted.read_taps(batch)
    with never_run(base.model.encoder):
        found, _ = gradients(adapted, read)
    assert torch.equal(found, expected)
    assert adapted.read_taps(read) is read


def test_a_base_can_be_trained_whole_after_its_features_were_read(new_base, new_stack, new_batch):
    base = new_base()
    gradients(AdaptedModel(base, new_stack(base, "hff")), new_batch(ALL_TASKS))
    _, found = gradients(AdaptedModel(base), new_batch(ALL_TASKS))
    assert found
