"""The step benchmark: what is counted and what is timed."""

import time

import pytest
import torch

from adaptkit.adapters import api
from adaptkit.bench import steps as bench

pytestmark = pytest.mark.slow

SIZE = bench.Size(num_utterances=4, seconds=0.6, num_tasks=2, num_tokens=3)
RESIDUAL = api.read_config({"kind": "residual", "bottleneck": 4})
LORA = api.read_config({"kind": "lora", "rank": 2})


def test_both_sides_of_the_comparison_are_timed(base):
    costs = bench.time_steps(base, [RESIDUAL], SIZE, num_steps=2)

    floors = ["forward alone", "backward to block 0, block"]
    assert [cost.name for cost in costs] == ["fine-tuning", *floors, "residual"]
    assert min(cost.seconds for cost in costs) > 0
    assert costs[0].ratio == 1
    assert [cost.of_floor is None for cost in costs] == [True, True, True, False]


def test_trainable_parameters_are_those_of_each_side(base):
    full, forward, floor, adapted = bench.time_steps(base, [RESIDUAL], SIZE, num_steps=1)

    assert (forward.params_trainable, floor.params_trainable) == (0, 1)
    assert full.params_trainable == base.num_parameters
    assert adapted.params_trainable == 2 * 2 * (2 * 16 * 4 + 4 + 16)  # K L (2 D R + R + D)


def test_benchmark_leaves_the_base_as_it_was(base):
    before = {name: tensor.clone() for name, tensor in base.model.state_dict().items()}

    bench.time_steps(base, [RESIDUAL], SIZE, num_steps=1)

    assert all(torch.equal(tensor, before[name]) for name, tensor in base.model.state_dict().items())
    assert not any(parameter.requires_grad for parameter in base.model.parameters())


def test_memory_of_a_step_grows_with_the_batch(base):
    larger = bench.Size(num_utterances=32, seconds=2.0, num_tasks=2, num_tokens=3)

    small, large = (bench.time_steps(base, [RESIDUAL], size, num_steps=1)[0] for size in (SIZE, larger))

    assert large.peak_mb > small.peak_mb + 5


def test_a_kind_beside_the_encoder_is_timed_with_cached_features_too(base, monkeypatch):
    monkeypatch.setattr(time, "perf_counter", time.process_time)  # whatever else the machine does
    hff = api.read_config({"kind": "hff", "dim": 4})

    costs = bench.time_steps(base, [hff, RESIDUAL], SIZE, num_steps=2)

    assert [cost.name for cost in costs[3:]] == ["hff", "hff, cached", "residual"]
    assert costs[4].seconds < costs[3].seconds


def test_the_upper_half_of_the_blocks_is_half_of_them(base):
    assert bench.in_upper_half(RESIDUAL, base.sites).blocks == (1,)
    assert bench.in_upper_half(LORA, base.sites) is None
