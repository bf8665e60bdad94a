"""The benchmark of Submodels: what is timed, and that it refuses to time ways that differ."""

from dataclasses import replace

import pytest
import torch

from adaptkit.adapters import api
from adaptkit.bench import submodels as bench
from adaptkit.errors import AdaptkitError, ConfigError
from adaptkit.model.adapted import AdaptedModel

LOAD = bench.Load(num_speakers=3, seconds=0.6)
OURS = [bench.BASE, bench.MIXED, bench.HALF_BASE, bench.LOOP]
ENTRIES = [
    {"kind": "residual", "bottleneck": 4},
    {"kind": "hff", "dim": 4},
    {"kind": "bitfit"},
    {"kind": "hra", "controller_width": 4, "bank": "space", "space_dim": 3},
]
RESIDUAL = api.read_config(ENTRIES[0])
LORA = api.read_config({"kind": "lora", "rank": 3, "alpha": 12})


@pytest.fixture
def ways(base):
    """Ways to decode the same rows, of which `loop` goes through other adapters."""

    def make(adapters, loop):
        batch = bench.make_batch(base, bench.make_rows(base, LOAD), range(3))
        bare, mixed, alone = (AdaptedModel(base, stack).eval() for stack in (None, adapters, loop))
        half = replace(batch, task_ids=(-1, 1, -1))
        return [
            bench.DecodingMethod(bench.BASE, bare, [batch]),
            bench.DecodingMethod(bench.MIXED, mixed, [batch]),
            bench.DecodingMethod(bench.HALF_BASE, mixed, [half]),
            bench.DecodingMethod(bench.LOOP, alone, [batch.rows([row]) for row in range(3)]),
        ]

    return make


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry["kind"])
def test_every_way_is_timed_beside_the_base(base, entry):
    costs = bench.time_decoding(base, api.read_config(entry), LOAD, num_rounds=2)

    assert [cost.name for cost in costs] == OURS
    assert costs[0].ratio == 1
    assert min(cost.seconds for cost in costs) > 0


@pytest.mark.slow
def test_peft_decodes_the_same_with_the_same_matrices(base):
    costs = bench.time_decoding(base, LORA, LOAD, num_rounds=1, has_peft=True)  # it raises if not

    assert [cost.name for cost in costs] == [*OURS, bench.PEFT_MIXED, bench.PEFT_LOOP]


def test_peft_is_for_lora_alone(base):
    with pytest.raises(ConfigError, match="adapter type residual: has no equivalent in PEFT"):
        bench.time_decoding(base, RESIDUAL, LOAD, num_rounds=1, has_peft=True)


@pytest.mark.slow
def test_benchmark_leaves_the_base_as_it_was(base):
    before = {name: tensor.clone() for name, tensor in base.model.state_dict().items()}

    bench.time_decoding(base, LORA, LOAD, num_rounds=1, has_peft=True)

    assert all(torch.equal(tensor, before[name]) for name, tensor in base.model.state_dict().items())
    assert not any(parameter.requires_grad for parameter in base.model.parameters())


def test_ways_that_agree_are_accepted(base, ways):
    adapters = bench.random_submodels(base, RESIDUAL, ["a", "b", "c"])

    bench.check_same(ways(adapters, adapters))


def test_a_way_that_takes_another_submodel_is_refused(base, ways):
    adapters, others = (bench.random_submodels(base, RESIDUAL, ["a", "b", "c"]) for _ in range(2))
    for table in others.parameters():
        table[1] = table[0]

    with pytest.raises(AdaptkitError, match=f"'{bench.LOOP}' and 'mixed' differ in rows 1"):
        bench.check_same(ways(adapters, others))


def test_a_row_that_is_no_number_is_refused(base, ways):
    adapters, others = (bench.random_submodels(base, RESIDUAL, ["a", "b", "c"]) for _ in range(2))
    for table in others.parameters():
        table[2] = torch.nan

    with pytest.raises(AdaptkitError, match="differ in rows 2"):
        bench.check_same(ways(adapters, others))


def test_submodels_that_change_nothing_are_refused(base, ways, new_stack):
    untrained = new_stack(base).eval()

    with pytest.raises(AdaptkitError, match="3 of 3 random Submodels change nothing"):
        bench.check_same(ways(untrained, untrained))
