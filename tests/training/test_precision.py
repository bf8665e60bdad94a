"""Lower precision, losses that are not finite, and the random numbers of a step."""

import contextlib
import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from adaptkit.errors import ConfigError
from adaptkit.model.adapted import AdaptedModel
from adaptkit.training.precision import autocast, find_not_finite, make_scaler, seed_everything

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


class Recurrent(torch.nn.Module):
    """A model with an LSTM, which this device may have in float32 only."""

    def __init__(self, lacks):
        super().__init__()
        self.decoder = torch.nn.LSTM(4, 4)
        if lacks:
            self.decoder.forward = self.fail

    def fail(self, x):
        raise RuntimeError("could not create a primitive descriptor for the LSTM")


def test_a_precision_that_an_lstm_lacks_is_refused_with_its_name():
    with pytest.raises(ConfigError, match="bfloat16: the LSTM 'decoder' .* this cpu; use float32"):
        make_scaler(Recurrent(lacks=True), torch.device("cpu"), "bfloat16")


def test_a_transducer_has_a_loss_in_bfloat16_unless_it_is_refused(new_base, new_stack, new_batch):
    transducer = new_base(
        decoder="transducer", decoder_conf={"hidden_size": 8}, joint_net_conf={"joint_space_size": 8}
    )
    adapted = AdaptedModel(transducer, new_stack(transducer))
    device = torch.device("cpu")
    with contextlib.suppress(ConfigError):
        make_scaler(transducer.model, device, "bfloat16")
        with torch.no_grad(), adapted.hooked(), autocast(device, "bfloat16"):
            assert adapted.loss(new_batch(ALL_TASKS)).isfinite()


@pytest.mark.parametrize(("precision", "is_scaled"), [("float32", False), ("float16", True)])
def test_only_float16_scales_the_loss(adapted, precision, is_scaled):
    device = torch.device("cpu")
    assert make_scaler(adapted.espnet, device, precision).is_enabled() == is_scaled
    assert not make_scaler(Recurrent(lacks=True), device, "float32").is_enabled()


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
