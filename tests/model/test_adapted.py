"""What a training step computes: loss, modes, random numbers and learning rates."""

import copy
import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from adaptkit.model.adapted import AdaptedModel
from adaptkit.training.precision import autocast, find_not_finite, seed_everything
from adaptkit.training.schedule import learning_rate

pytestmark = pytest.mark.espnet
ALL_TASKS = (0, 1, 2)


@pytest.fixture
def adapted(base, new_stack):
    """The tiny Conformer with trained adapters."""
    return AdaptedModel(base, new_stack(base, is_trained=True))


def rates(num_steps, total=None, **options):
    return [learning_rate(s, total or num_steps, peak=1.0, **options) for s in range(num_steps)]


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


def test_a_pass_in_bfloat16_leaves_the_float32_loss_as_it_was(adapted, new_batch):
    batch = new_batch(ALL_TASKS)
    with torch.no_grad(), adapted.eval().hooked():
        before = adapted.loss(batch)
        with autocast(torch.device("cpu"), "bfloat16"):
            adapted.loss(batch)
        assert torch.equal(adapted.loss(batch), before)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_utterances_with_a_loss_that_is_not_finite_are_found(adapted, new_batch, value):
    batch = new_batch(ALL_TASKS)
    inputs = batch.inputs.clone()
    inputs[1, 20, 3] = value
    with adapted.hooked():
        found = find_not_finite(adapted, [replace(batch, inputs=inputs), batch], "float32")
    assert found == ["utt1"]


def test_a_step_draws_the_same_numbers_whatever_came_before():
    def draw():
        return torch.rand(3).tolist(), random.random(), np.random.rand()

    seed_everything(0, step=5)
    expected = draw()
    draw()
    seed_everything(0, step=5)
    assert draw() == expected


def test_steps_seeds_and_processes_draw_different_numbers():
    drawn = set()
    for seed, step, rank in ((0, 0, 0), (0, 1, 0), (1, 0, 0), (0, 0, 1), (1, 1, 1)):
        seed_everything(seed, step, rank)
        drawn.add(float(torch.rand(1)))
    assert len(drawn) == 5


def test_learning_rate_rises_linearly_to_its_peak():
    assert rates(4, 100, warmup_steps=4, schedule="constant") == [0.25, 0.5, 0.75, 1.0]


def test_a_constant_learning_rate_stays():
    assert rates(5, warmup_steps=2, schedule="constant")[2:] == [1.0, 1.0, 1.0]


def test_a_linear_learning_rate_would_be_zero_after_the_last_step():
    assert rates(7, 6, warmup_steps=2, schedule="linear") == [0.5, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0]


def test_a_cosine_learning_rate_is_half_way_in_the_middle():
    found = rates(9, 10, warmup_steps=2, schedule="cosine")
    assert found[2] == 1.0
    assert found[4] == pytest.approx(0.5 + 0.5 * 2**-0.5)  # a quarter of the way: 45 degrees
    assert found[6] == pytest.approx(0.5)


def test_an_inverse_root_learning_rate_halves_when_steps_are_four_times_the_warm_up():
    found = rates(16, 100, warmup_steps=4, schedule="inverse_sqrt")
    assert found[3] == 1.0
    assert found[15] == pytest.approx(0.5)


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine", "inverse_sqrt"])
def test_without_warm_up_training_starts_at_the_peak(schedule):
    found = rates(10, warmup_steps=0, schedule=schedule)
    assert found[0] == 1.0
    assert all(0 < rate <= 1 for rate in found)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_a_training_shorter_than_its_warm_up_only_rises(schedule):
    assert rates(3, warmup_steps=10, schedule=schedule) == pytest.approx([0.1, 0.2, 0.3])
