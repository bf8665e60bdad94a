"""Full fine-tuning as differences, against fine-tuning the model itself."""

from dataclasses import replace

import pytest
import torch

from adaptkit.adapters import api
from adaptkit.adapters.kinds.full import Config
from adaptkit.adapters.per_task import task_parameters
from adaptkit.adapters.site import Site
from adaptkit.errors import ConfigError
from adaptkit.model import checkpoint
from adaptkit.model.adapted import AdaptedModel

ALL_TASKS = (0, 1, 2)
DECODER_CONF = {"attention_heads": 2, "linear_units": 16, "num_blocks": 1}
HYBRID = {"decoder": "transformer", "decoder_conf": DECODER_CONF, "model_conf": {"ctc_weight": 0.3}}
SHAPES = {"encoder.embed.weight": (4, 3), "encoder.norm.bias": (4,), "ctc.ctc_lo.weight": (7, 4)}


def weights():
    return [Site(name, "weight", -1, shape[-1], shape[0], shape=shape) for name, shape in SHAPES.items()]


def build(num_tasks, **options):
    return api.build([Config(**options)], weights(), [f"spk{task}" for task in range(num_tasks)], seed=0)


def count(stack):
    return sum(parameter.numel() for parameter in stack.parameters())


def fine_tune(adapted, batches, lr):
    """Take a step of SGD on each batch."""
    optimizer = torch.optim.SGD([p for p in adapted.parameters() if p.requires_grad], lr=lr)
    with adapted.hooked():
        for batch in batches:
            optimizer.zero_grad()
            adapted.loss(batch).backward()
            optimizer.step()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 5 * (12 + 4 + 28)),
        ({"per_task": False}, 12 + 4 + 28),
        ({"parts": ("ctc",)}, 5 * 28),
        ({"parts": ("encoder", "ctc"), "per_task": False}, 12 + 4 + 28),
    ],
)
def test_number_of_parameters_is_the_closed_form(options, expected):
    assert count(build(5, **options)) == expected


def test_all_parameters_of_a_base_are_counted(base, new_stack):
    assert count(new_stack(base, "full")) == 3 * base.num_parameters


def test_differences_are_those_of_the_task_by_the_names_of_the_base():
    stack = build(2)
    for _, table in task_parameters(stack):
        table.data[1] = 2.0
    assert {name: tuple(d.shape) for name, d in stack.differences(1).items()} == SHAPES
    assert all((difference == 2.0).all() for difference in stack.differences(1).values())
    assert not any(difference.any() for difference in stack.differences(0).values())
    assert stack.differences(-1) == {}


def test_differences_of_two_adapters_add_up():
    entries = [Config(), Config(parts=("ctc",), per_task=False)]
    stack = api.build(entries, weights(), ["spk0", "spk1"], seed=0)
    for number, parameter in enumerate(stack.parameters(), start=1):
        parameter.data.fill_(number)
    expected = {"encoder.embed.weight": 1.0, "encoder.norm.bias": 2.0, "ctc.ctc_lo.weight": 3.0 + 4.0}
    found = stack.differences(1)
    assert found.keys() == expected.keys()
    assert all((found[name] == expected[name]).all() for name in expected)


def test_it_is_fine_tuning_the_model_itself(new_base, new_stack, new_batch):
    base = new_base(**HYBRID)
    stack, twin = new_stack(base, "full"), AdaptedModel(base).eval()
    batches = [new_batch((1, 1, 1), seed=seed) for seed in range(4)]
    fine_tune(AdaptedModel(base, stack).train(), batches, lr=0.05)
    fine_tune(twin, batches, lr=0.05)
    differences = stack.differences(1)
    for name, expected in twin.espnet.named_parameters():
        found = base.model.get_parameter(name) + differences[name]
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert all(
        (differences[name].abs() > 0.01).any() for name in ("ctc.ctc_lo.bias", "decoder.output_layer.bias")
    )


def test_tasks_of_a_mixed_batch_get_the_gradients_of_their_own_rows(base, new_stack, new_batch):
    mixed, alone = (new_stack(base, "full", is_trained=True) for _ in range(2))
    batch = new_batch(ALL_TASKS)
    with (first := AdaptedModel(base, mixed)).hooked():
        first(batch).backward()
    with (second := AdaptedModel(base, alone)).hooked():
        for row in range(3):
            (second(batch.rows([row])) / 3).backward()
    for one, other in zip(mixed.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, atol=1e-4, rtol=1e-3)


def test_a_task_absent_from_the_batch_gets_no_gradient(base, new_stack, new_batch):
    stack = new_stack(base, "full", is_trained=True)
    adapted = AdaptedModel(base, stack)
    with adapted.hooked():
        adapted.loss(new_batch((2, 0))).backward()
    assert not any(parameter.grad[1].any() for parameter in stack.parameters())
    assert all(parameter.grad[0].any() and parameter.grad[2].any() for parameter in stack.parameters())


def test_the_search_of_a_mixed_batch_is_that_of_its_rows(base, new_stack, new_batch):
    adapted, batch = AdaptedModel(base, new_stack(base, "full", is_trained=True)), new_batch((2, -1, 0))
    with torch.no_grad(), adapted.hooked():
        found = [paths[0] for paths in adapted.recognise(batch)]
        alone = [adapted.recognise(batch.rows([row]))[0][0] for row in range(3)]
    assert [path.tokens for path in found] == [path.tokens for path in alone]
    assert [path.score for path in found] == pytest.approx([path.score for path in alone], abs=1e-4)


def test_shared_differences_are_those_of_every_task_but_not_of_the_base(base, new_stack, new_batch, encode):
    stack, batch = new_stack(base, "full", is_trained=True, per_task=False), new_batch((0, -1, 2))
    adapted = encode(base, stack, batch)
    assert torch.equal(adapted, encode(base, stack, replace(batch, task_ids=(1, -1, 1))))
    assert torch.equal(adapted[1], encode(base, None, batch)[1])
    assert not torch.equal(adapted[2], encode(base, None, batch)[2])


def test_shared_differences_belong_to_no_task(base, new_stack):
    assert not list(task_parameters(new_stack(base, "full", per_task=False)))


def test_one_pass_serves_all_tasks_that_share_their_differences():
    own, shared, both = (
        build(3),
        build(3, per_task=False),
        api.build([Config(per_task=False), Config(parts=("ctc",))], weights(), ["a", "b"], seed=0),
    )
    assert [own.group(task) for task in (-1, 0, 2)] == [(-1,), (0,), (2,)]
    assert [shared.group(task) for task in (-1, 0, 2)] == [(-1,), (0,), (0,)]
    assert [both.group(task) for task in (-1, 0, 1)] == [(-1, -1), (0, 0), (0, 1)]


def test_parts_that_are_not_chosen_stay_the_bases(base, new_stack, new_batch, encode):
    stack, batch = new_stack(base, "full", is_trained=True, parts=("ctc",)), new_batch(ALL_TASKS)
    assert stack.differences(0).keys() == {"ctc.ctc_lo.weight", "ctc.ctc_lo.bias"}
    assert torch.equal(encode(base, stack, batch), encode(base, None, batch))
    with torch.no_grad():
        assert not torch.equal(AdaptedModel(base, stack)(batch), AdaptedModel(base).eval()(batch))


def test_beside_other_adapters_the_chosen_part_is_trained_too(new_base, new_batch):
    base = new_base()
    entries = [api.read_config(entry) for entry in ({"kind": "residual"}, {"kind": "full", "parts": ["ctc"]})]
    stack = api.build(entries, base.sites, ["spk1", "spk10", "spk2"], seed=0)
    adapted = AdaptedModel(base, stack).train()
    fine_tune(adapted, [new_batch(ALL_TASKS)] * 2, lr=0.1)
    assert all(table[task].any() for table in stack[1].parameters() for task in ALL_TASKS)
    assert all(up.weight[task].any() for up in stack[0].up.values() for task in ALL_TASKS)


def test_a_part_that_the_base_lacks_is_refused_with_those_it_has():
    with pytest.raises(ConfigError, match="parts: this base model has no decoder; it has encoder, ctc"):
        build(1, parts=("ctc", "decoder"))


def test_no_parts_at_all_are_refused():
    with pytest.raises(ValueError, match="at least 1 item"):
        Config(parts=())


@pytest.mark.parametrize("options", [{"per_task": False}, {"parts": ("ctc", "decoder")}])
def test_saved_differences_are_loaded_to_the_same(new_base, new_stack, tmp_path, options):
    base, path = new_base(**HYBRID), tmp_path / "adapter.safetensors"
    stack = new_stack(base, "full", is_trained=True, **options)
    checkpoint.save(path, stack, base.fingerprint, 3, stack.state_dict())
    restored = checkpoint.restore(checkpoint.load(path), base, path).differences(2)
    expected = stack.differences(2)
    assert restored.keys() == expected.keys()
    assert all(torch.equal(restored[name], expected[name]) for name in expected)
