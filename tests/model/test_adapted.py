"""What a training step computes: loss, modes, random numbers and learning rates."""

import copy
import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from adaptkit.model.adapted import Objective, autocast, find_not_finite, learning_rate, seed_everything

pytestmark = pytest.mark.espnet
ALL_TASKS = (0, 1, 2)


@pytest.fixture
def objective(base, new_stack):
    """The tiny Conformer with trained adapters."""
    return Objective(base, new_stack(base, is_trained=True))


def rates(num_steps, total=None, **options):
    return [learning_rate(s, total or num_steps, peak=1.0, **options) for s in range(num_steps)]


def test_loss_and_search_leave_the_batch_as_it_was(objective, new_batch):
    batch = new_batch(ALL_TASKS)
    before = copy.deepcopy(batch)
    with torch.no_grad(), objective.eval().hooked():
        first, again = objective(batch), objective(batch)
        objective.search(batch)
    assert torch.equal(first, again)
    for name in ("inputs", "lengths", "tokens", "token_lengths"):
        assert torch.equal(getattr(batch, name), getattr(before, name))


def test_loss_of_a_batch_is_the_mean_of_its_rows(objective, new_batch):
    batch = new_batch(ALL_TASKS)
    with torch.no_grad(), objective.eval().hooked():
        rows = torch.stack([objective(batch.rows([row])) for row in range(3)])
        torch.testing.assert_close(objective(batch), rows.mean(), atol=1e-4, rtol=0)


def test_loss_with_an_attention_decoder_is_the_mean_of_its_rows_too(new_base, new_stack, new_batch):
    conf = {"attention_heads": 2, "linear_units": 16, "num_blocks": 1}
    base = new_base(decoder="transformer", decoder_conf=conf, model_conf={"ctc_weight": 0.3})
    objective, batch = Objective(base, new_stack(base)).eval(), new_batch(ALL_TASKS)
    with torch.no_grad(), objective.hooked():
        rows = torch.stack([objective(batch.rows([row])) for row in range(3)])
        torch.testing.assert_close(objective(batch), rows.mean(), atol=1e-4, rtol=0)


def test_adapters_train_while_the_base_stays_in_eval(objective):
    objective.train()
    assert objective.adapters.training
    assert not any(module.training for module in objective.model.modules())
    assert not any(parameter.requires_grad for parameter in objective.model.parameters())


def test_a_base_is_trained_whole(new_base):
    objective = Objective(new_base()).train()
    assert all(module.training for module in objective.model.modules())
    assert all(parameter.requires_grad for parameter in objective.model.parameters())
    assert not any(module.training for module in objective.eval().model.modules())


def test_dropout_before_ctc_ends_with_training(new_base, new_batch):
    objective, batch = Objective(new_base(ctc_conf={"dropout_rate": 0.5})), new_batch((-1, -1))
    with torch.no_grad(), objective.hooked():
        losses = [float(objective.eval()(batch)) for _ in range(2)]
        objective.train().model.encoder.eval()
        losses += [float(objective(batch)) for _ in range(2)]
    assert losses[0] == losses[1]
    assert len(set(losses[1:])) == 3


def test_without_hooks_adapters_do_nothing(objective, new_batch):
    batch = new_batch(ALL_TASKS)
    with torch.no_grad():
        plain = objective(batch)
        with objective.hooked():
            assert not torch.equal(objective(batch), plain)
        assert torch.equal(objective(batch), plain)


def test_search_works_under_inference_mode_and_training_goes_on_after_it(objective, new_batch):
    objective.adapters.requires_grad_(True)
    with objective.hooked():
        with torch.inference_mode():
            objective.search(new_batch(ALL_TASKS))
        objective(new_batch(ALL_TASKS)).backward()
    assert all(parameter.grad is not None for parameter in objective.adapters.parameters())


def test_a_pass_in_bfloat16_leaves_the_float32_loss_as_it_was(objective, new_batch):
    batch = new_batch(ALL_TASKS)
    with torch.no_grad(), objective.eval().hooked():
        before = objective(batch)
        with autocast(torch.device("cpu"), "bfloat16"):
            objective(batch)
        assert torch.equal(objective(batch), before)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_utterances_with_a_loss_that_is_not_finite_are_found(objective, new_batch, value):
    batch = new_batch(ALL_TASKS)
    inputs = batch.inputs.clone()
    inputs[1, 20, 3] = value
    with objective.hooked():
        found = find_not_finite(objective, [replace(batch, inputs=inputs), batch], "float32")
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
