"""Adapters in encoders of contextual blocks, which fold blocks of time into the rows of a batch."""

import pytest
import torch

from adaptkit.adapters.catalog import available
from adaptkit.base.sites import attached
from adaptkit.errors import ConfigError
from adaptkit.model.adapted import AdaptedModel
from tests.fixtures.models import STREAMING

ENCODERS = ("contextual_block_conformer", "contextual_block_transformer")
KINDS = [kind for kind in available() if kind != "hff"]


@pytest.fixture(scope="module", params=[ENCODERS[0], pytest.param(ENCODERS[1], marks=pytest.mark.slow)])
def streaming(request, new_base):
    """A tiny model whose encoder works on blocks of 8 frames; no test may change it."""
    return new_base(encoder=request.param, encoder_conf=STREAMING)


@pytest.mark.parametrize("kind", KINDS)
def test_an_untrained_adapter_changes_nothing(streaming, kind, new_stack, new_batch, encode):
    batch = new_batch((0, 1, 2), length=90)
    adapted = encode(streaming, new_stack(streaming, kind), batch)
    assert torch.equal(adapted, encode(streaming, None, batch))


@pytest.mark.parametrize("length", [30, 90])  # of one block, and of several
@pytest.mark.parametrize("kind", KINDS)
def test_every_row_has_the_weights_of_its_own_task(streaming, kind, length, new_stack, new_batch, encode):
    stack = new_stack(streaming, kind, is_trained=True)
    batch = new_batch((2, -1, 0), length=length)
    together = encode(streaming, stack, batch)
    for row in range(3):
        alone = encode(streaming, stack, batch.rows([row]))
        torch.testing.assert_close(together[row], alone[0], atol=1e-5, rtol=1e-5)
    base = encode(streaming, None, batch)
    torch.testing.assert_close(together[1], base[1], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(together[0], base[0], atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_learns(streaming, kind, new_stack, new_batch):
    adapted = AdaptedModel(streaming, new_stack(streaming, kind, is_trained=True)).train()
    batch = new_batch((0, 1, 2), length=90)
    with adapted.hooked():
        adapted.loss(batch).backward()
    assert [n for n, p in adapted.adapters.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_a_block_of_time_hands_its_adapted_last_frame_to_the_next(streaming, new_stack, new_batch):
    seen = []
    stack, batch = new_stack(streaming, is_trained=True), new_batch((0, 1), length=90)
    second = streaming.model.encoder.encoders[1]
    with (
        torch.no_grad(),
        attached(streaming.model, stack, streaming.sites),
        stack.for_tasks(batch.task_ids),
        second.register_forward_pre_hook(lambda block, args: seen.append((args[0].clone(), args[3]))),
    ):
        streaming.model.encode(batch.inputs.clone(), batch.lengths)
    ((x, contexts),) = seen  # (B, N, U, D) and (B, N, layers, D)
    assert torch.equal(contexts[:, 1:, 1], x[:, :-1, -1])
    assert torch.equal(contexts[:, 0, 1], x[:, 0, -1])


def test_adapters_that_read_outputs_of_blocks_are_refused(streaming, new_stack):
    with pytest.raises(ConfigError, match="hff reads the outputs of blocks.*use an adapter within"):
        AdaptedModel(streaming, new_stack(streaming, "hff"))
