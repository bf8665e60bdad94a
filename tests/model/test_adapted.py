"""What a training step computes: loss, modes, random numbers and learning rates."""

import copy

import pytest
import torch

from adaptkit.model.adapted import AdaptedModel
from tests.fixtures.models import CONFORMER

ALL_TASKS = (0, 1, 2)


@pytest.fixture
def adapted(base, new_stack):
    """The tiny Conformer with trained adapters."""
    return AdaptedModel(base, new_stack(base, is_trained=True))


def test_loss_and_search_leave_the_batch_as_it_was(adapted, new_batch):
    batch = new_batch(ALL_TASKS)
    before = copy.deepcopy(batch)
    with torch.no_grad(), adapted.eval().hooked():
        first, again = adapted.loss(batch), adapted.loss(batch)
        adapted.recognise(batch)
    assert torch.equal(first, again)
    for name in ("inputs", "lengths", "tokens", "token_lengths"):
        assert torch.equal(getattr(batch, name), getattr(before, name))


def test_loss_of_a_batch_is_the_mean_of_its_rows(adapted, new_batch):
    batch = new_batch(ALL_TASKS)
    with torch.no_grad(), adapted.eval().hooked():
        rows = torch.stack([adapted.loss(batch.rows([row])) for row in range(3)])
        torch.testing.assert_close(adapted.loss(batch), rows.mean(), atol=1e-4, rtol=0)


def test_loss_with_an_attention_decoder_is_the_mean_of_its_rows_too(new_base, new_stack, new_batch):
    conf = {"attention_heads": 2, "linear_units": 16, "num_blocks": 1}
    base = new_base(decoder="transformer", decoder_conf=conf, model_conf={"ctc_weight": 0.3})
    adapted, batch = AdaptedModel(base, new_stack(base)).eval(), new_batch(ALL_TASKS)
    with torch.no_grad(), adapted.hooked():
        rows = torch.stack([adapted.loss(batch.rows([row])) for row in range(3)])
        torch.testing.assert_close(adapted.loss(batch), rows.mean(), atol=1e-4, rtol=0)


ATTENTION = {
    "decoder": "transformer",
    "decoder_conf": {"attention_heads": 2, "linear_units": 16, "num_blocks": 1},
    "model_conf": {"ctc_weight": 0.3},
}
BLOCKS = {"encoder_conf": {**CONFORMER, "interctc_layer_idx": [1], "interctc_use_conditioning": True}}
INNER = {**BLOCKS, "model_conf": {"ctc_weight": 1.0, "interctc_weight": 0.3}}


@pytest.mark.parametrize("changes", [{}, ATTENTION, INNER], ids=["ctc", "attention", "interctc"])
@pytest.mark.parametrize("kind", ["residual", "bitfit", "hff"])
def test_rows_are_measured_as_the_loss_and_the_search_of_each(new_base, new_stack, new_batch, changes, kind):
    base = new_base(**changes)
    adapted, batch = AdaptedModel(base, new_stack(base, kind, is_trained=True)).eval(), new_batch(ALL_TASKS)
    with torch.no_grad(), adapted.hooked():
        losses, paths = adapted.measure_rows(batch, searches=True)
        alone = [float(adapted.loss(batch.rows([row]))) for row in range(3)]
        assert losses == pytest.approx(alone, rel=1e-4)
        assert [p[0].tokens for p in paths] == [p[0].tokens for p in adapted.recognise(batch)]
        assert adapted.measure_rows(batch, searches=False) == (losses, [])


def test_adapters_train_while_the_base_stays_in_eval(adapted):
    adapted.train()
    assert adapted.adapters.training
    assert not any(module.training for module in adapted.espnet.modules())
    assert not any(parameter.requires_grad for parameter in adapted.espnet.parameters())


def test_a_base_is_trained_whole(new_base):
    adapted = AdaptedModel(new_base()).train()
    assert all(module.training for module in adapted.espnet.modules())
    assert all(parameter.requires_grad for parameter in adapted.espnet.parameters())
    assert not any(module.training for module in adapted.eval().espnet.modules())


def of_base(adapted):
    """The parameters of the base that require a gradient or have one, and its modules in training."""
    parameters = dict(adapted.espnet.named_parameters())
    found = {name for name, p in parameters.items() if p.requires_grad or p.grad is not None}
    return found, any(module.training for module in adapted.espnet.modules())


@pytest.mark.parametrize("kind", ["residual", "full", "bitfit"])
def test_a_base_that_is_trained_elsewhere_is_no_other_models_affair(base, new_stack, new_batch, kind):
    batch, before = new_batch(ALL_TASKS), {name: t.clone() for name, t in base.model.state_dict().items()}
    first, whole = AdaptedModel(base, new_stack(base, kind)).train(), AdaptedModel(base).train()
    second = AdaptedModel(base, new_stack(base, "hra")).train()
    for adapted in (whole, first, second):
        with adapted.hooked():
            adapted.loss(batch).backward()
    torch.optim.SGD(whole.parameters(), lr=0.1).step()
    assert [of_base(adapted) for adapted in (first, second)] == [(set(), False)] * 2
    assert all(torch.equal(t, before[name]) for name, t in base.model.state_dict().items())
    assert of_base(whole) == (set(dict(whole.espnet.named_parameters())), True)


def test_a_frozen_base_alone_is_run_without_a_copy(base, new_batch):
    alone = AdaptedModel(base, is_frozen=True).train()
    assert alone.espnet is base.model
    assert of_base(alone) == (set(), False)


def test_what_is_kept_for_the_backward_pass_is_the_same_beside_another_model(base, new_stack, new_batch):
    def measure():
        kept = []
        note = lambda t: kept.append(t.numel()) or t.detach()  # noqa: E731
        saving = torch.autograd.graph.saved_tensors_hooks(note, lambda t: t)
        with adapted.hooked(), saving:
            adapted.loss(new_batch(ALL_TASKS))
        return kept

    adapted = AdaptedModel(base, new_stack(base)).train()
    before = measure()
    AdaptedModel(base).train()
    assert measure() == before


def test_dropout_before_ctc_ends_with_training(new_base, new_batch):
    adapted, batch = AdaptedModel(new_base(ctc_conf={"dropout_rate": 0.5})), new_batch((-1, -1))
    with torch.no_grad(), adapted.hooked():
        losses = [float(adapted.eval()(batch)) for _ in range(2)]
        adapted.train().espnet.encoder.eval()
        losses += [float(adapted.loss(batch)) for _ in range(2)]
    assert losses[0] == losses[1]
    assert len(set(losses[1:])) == 3


def test_without_hooks_adapters_do_nothing(adapted, new_batch):
    batch = new_batch(ALL_TASKS)
    with torch.no_grad():
        plain = adapted.loss(batch)
        with adapted.hooked():
            assert not torch.equal(adapted.loss(batch), plain)
        assert torch.equal(adapted.loss(batch), plain)


def test_search_works_under_inference_mode_and_training_goes_on_after_it(adapted, new_batch):
    adapted.adapters.requires_grad_(True)
    with adapted.hooked():
        with torch.inference_mode():
            adapted.recognise(new_batch(ALL_TASKS))
        adapted.loss(new_batch(ALL_TASKS)).backward()
    assert all(parameter.grad is not None for parameter in adapted.adapters.parameters())
