"""Lower precision, losses that are not finite, and the random numbers of a step."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from adaptkit.model.adapted import AdaptedModel
from adaptkit.training.precision import autocast, find_not_finite, seed_everything

ALL_TASKS = (0, 1, 2)


@pytest.fixture
def adapted(base, new_stack):
    """The tiny Conformer with trained adapters."""
    return AdaptedModel(base, new_stack(base, is_trained=True))


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
