"""Training steps of others: that they learn what ours do, so that times can be compared."""

import pytest
import torch

from adaptkit.adapters import api
from adaptkit.bench import steps
from adaptkit.bench.peers import espnet_step, peft_steps
from adaptkit.bench.peft import PeftModel
from adaptkit.bench.submodels import random_submodels
from adaptkit.bench.timed import training_step
from adaptkit.errors import ConfigError
from adaptkit.model.adapted import AdaptedModel
from tests.fixtures.models import CONFORMER

pytestmark = pytest.mark.slow
LORA = api.read_config({"kind": "lora", "rank": 3, "alpha": 12})
TASKS = ("one", "two")
NO_DROPOUT = dict.fromkeys(("dropout_rate", "positional_dropout_rate", "attention_dropout_rate"), 0.0)


@pytest.fixture
def stack(base):
    """LoRA of two speakers with random weights, to be trained."""
    return random_submodels(base, LORA, TASKS).train().requires_grad_(True)


@pytest.fixture
def peft(base, stack):
    """PEFT with the same weights."""
    return PeftModel(base, stack)


def test_peft_has_the_gradients_of_ours_speaker_by_speaker(base, stack, peft, new_batch):
    batch, adapted = new_batch((0, 1, 0)), AdaptedModel(base, stack).train()
    with adapted.hooked():
        (adapted.loss(batch) * 3).backward()
    for task, rows in enumerate(([0, 2], [1])):
        peft.activate(task)
        with peft.adapted.hooked():
            (peft.adapted.loss(batch.rows(rows)) * len(rows)).backward()

    (lora,) = stack
    for site in lora.sites:
        theirs = peft.encoder.get_submodule(f"base_model.model.{site.name.removeprefix('encoder.')}")
        for task, name in enumerate(TASKS):
            for part, own in ((theirs.lora_A, lora.down), (theirs.lora_B, lora.up)):
                expected = own[site.key].weight.grad[task].T
                torch.testing.assert_close(part[name].weight.grad, expected, atol=2e-4, rtol=1e-3)


def test_peft_refuses_to_mix_speakers_in_training(peft, new_batch):
    peft.mix(0)
    peft.encoder.train()
    with pytest.raises(ValueError, match="training mode"), peft.adapted.hooked():
        peft.adapted.loss(new_batch((0, 1)))


def test_peft_trains_the_matrices_of_every_speaker_in_turn(base, new_batch):
    ours, one, turns = peft_steps(base, LORA, new_batch((0, 1, 0)), 2)
    before = [[p.detach().clone() for p in step.parameters] for step in (one, turns)]
    for step in (one, turns):
        step.run()

    assert ours.name == "lora, 1 speaker"
    assert turns.name == "PEFT, 2 in turn"
    assert len(turns.parameters) == 2 * len(one.parameters)
    for step, parameters in zip((one, turns), before, strict=True):
        moved = [not torch.equal(a, b) for a, b in zip(step.parameters, parameters, strict=True)]
        assert sum(moved) == len(moved) // 2  # B alone at first, as A's gradient is zero while B is


def test_espnet_clips_and_follows_the_gradients_of_our_fine_tuning(new_base, new_batch):
    base = new_base(encoder_conf={**CONFORMER, **NO_DROPOUT})
    batch = new_batch((0, 0), length=60)  # ESPnet's own padding would leak
    theirs, ours = espnet_step(base, batch), training_step("ours", AdaptedModel(base).train(), batch)
    for step in (theirs, ours):
        step.run()

    moments = [[t for t in step.state() if t.dim()] for step in (theirs, ours)]  # of every parameter two
    expected = [t for t in moments[1] if t.numel()][-len(moments[0]) :]
    for own, other in zip(moments[0], expected, strict=True):
        torch.testing.assert_close(own, other, atol=1e-6, rtol=1e-3)
    assert not any(torch.equal(p, q) for p, q in zip(theirs.parameters, base.model.parameters(), strict=True))


def test_only_lora_has_a_peer(base, new_stack):
    with pytest.raises(ConfigError, match="adapter type residual: has no equivalent in PEFT"):
        PeftModel(base, new_stack(base))


def test_peers_stand_beside_ours(base):
    size = steps.Size(num_utterances=4, seconds=0.6, num_tasks=2, num_tokens=3)
    costs = steps.time_steps(base, [LORA], size, num_steps=1, has_peers=True)

    peers = ["lora, 1 speaker", "PEFT, 1 speaker", "PEFT, 2 in turn"]
    assert [cost.name for cost in costs[:2]] == ["fine-tuning", "ESPnet's trainer"]
    assert [cost.name for cost in costs[4:]] == ["lora", *peers]
    assert costs[0].params_trainable == costs[1].params_trainable
    assert costs[4].params_trainable == 2 * costs[5].params_trainable == 2 * costs[6].params_trainable
    assert costs[7].params_trainable == costs[4].params_trainable
