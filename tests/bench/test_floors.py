"""The floors of training steps: where adapters begin, and that nothing below is back-propagated to."""

from contextlib import ExitStack

import pytest
import torch

from adaptkit.adapters import api
from adaptkit.bench.floors import Floor, find_floor
from adaptkit.model.adapted import AdaptedModel

FIRST = {  # options: the name of the floor
    "residual": ({"bottleneck": 4}, "backward to block 0, block"),
    "residual, upper": ({"bottleneck": 4, "blocks": [1]}, "backward to block 1, block"),
    "tpa": ({"bottleneck": 4}, "backward to block 0, ffn_macaron_raw"),
    "tpa, upper": ({"bottleneck": 4, "blocks": [1]}, "backward to block 1, ffn_macaron_raw"),
    "hra": ({"controller_width": 4}, "backward to block 0, block"),
    "lora": ({"rank": 2}, "backward to block 0, ffn_macaron_in"),
    "hff": ({"dim": 4}, "forward alone"),
    "bitfit": ({}, "backward to encoder.embed.conv.0"),
    "bitfit, after the encoder": ({"parts": ["ctc"]}, "forward alone"),
}


def blocks_reached(adapted, base, batch):
    """Say of every block whether its output has a gradient."""
    found, blocks = [], base.model.encoder.encoders
    with adapted.hooked(), ExitStack() as stack:
        for one in blocks:
            note = one.register_forward_hook(lambda *called: found.append(called[2][0][0].requires_grad))
            stack.callback(note.remove)
        adapted.loss(batch)
    return found


@pytest.mark.parametrize("case", FIRST)
def test_a_floor_is_the_first_place_that_an_adapter_changes(base, new_batch, case):
    options, expected = FIRST[case]
    entry = api.read_config({"kind": case.partition(",")[0], **options})
    adapted = AdaptedModel(base, api.build([entry], base.sites, ["a", "b"], seed=0)).train()

    assert find_floor(adapted, new_batch((0, 1))).name == expected


@pytest.mark.parametrize(
    ("block", "reached"), [(0, [True, True]), (1, [False, True])], ids=["both blocks", "upper block"]
)
def test_adapters_in_upper_blocks_stop_back_propagation_below_them(base, new_batch, block, reached):
    entry = api.read_config({"kind": "residual", "bottleneck": 4, "blocks": [block]})
    own = AdaptedModel(base, api.build([entry], base.sites, ["a"], seed=0)).train()
    floor = find_floor(own, new_batch((0,))).adapted(base)

    for adapted in (own, floor):
        assert blocks_reached(adapted, base, new_batch((0,))) == reached


def test_a_floor_changes_nothing_and_trains_one_number(base, new_batch):
    batch, plain = new_batch((0, 0)), AdaptedModel(base, is_frozen=True).eval()
    site = next(site for site in base.sites if site.kind == "ffn")
    floor = Floor(site).adapted(base)
    with torch.no_grad(), plain.hooked():
        expected = plain.loss(batch)

    with floor.hooked():
        loss = floor.loss(batch)
    loss.backward()

    assert torch.equal(loss, expected)
    assert [parameter.numel() for parameter in floor.trained.parameters()] == [1]
    assert all(parameter.grad is None for parameter in base.model.parameters())
