"""What SpecAugment's options refuse, with which words, and the published policies."""

import re
from pathlib import Path

import pytest
import torch

from adaptkit import config
from adaptkit.augment.specaugment import SpecAugment, draw
from adaptkit.errors import ConfigError

CONF = Path(__file__).parents[2] / "conf/augment"
TIME = {"time_masks": 2, "time_width": 40}
PAPERS = {
    "libri_basic": ("1904.08779", (80, 27, 1, 100, 1.0, 1)),
    "libri_double": ("1904.08779", (80, 27, 2, 100, 1.0, 2)),
    "switchboard_mild": ("1904.08779", (40, 15, 2, 70, 0.2, 2)),
    "switchboard_strong": ("1904.08779", (40, 27, 2, 70, 0.2, 2)),
    "libri_full_adapt": ("1912.05533", (80, 27, 2, 0.04, 0.04, 20)),
    "conformer": ("2005.08100", (0, 27, 2, 0.05, None, 10)),
}
by_name = pytest.mark.parametrize("name", PAPERS)


def options(**fields):
    return config.check(SpecAugment, fields, "test")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "no effect: set time_warp, freq_masks or time_masks, or set all of it to null"),
        ({"time_masks": 0}, "no effect"),
        ({**TIME, "time_masks_ratio": 0.04}, "time_masks 2 and time_masks_ratio 0.04 both set the number"),
        ({**TIME, "time_width_ratio": 0.05}, "time_width [0, 40] and time_width_ratio [0.0, 0.05] both set"),
        ({"time_masks": 2}, "have a number but no width; set time_width or time_width_ratio"),
        ({"time_width": 40}, "have a width but no number; set time_masks or time_masks_ratio"),
        ({"time_masks": 2, "time_width": [40, 40]}, "time_width [40, 40] is empty"),
        ({"time_masks": 2, "time_width": 0}, "time_width [0, 0] is empty"),
        ({"time_masks": 2, "time_width_ratio": [0.05, 0.01]}, "time_width_ratio [0.05, 0.01] is empty"),
        ({"freq_masks": 1, "freq_width": [9, 3]}, "the end is excluded and must exceed the lowest width"),
        (
            {"time_masks": 1, "time_width_ratio": 0.1, "time_width_bound": 0.2},
            "time_width_bound 0.2 bounds time_width, which is not set",
        ),
        ({**TIME, "freq_masks": -1}, "freq_masks: Input should be greater than or equal to 0 (seen: -1)"),
        ({"freq_masks": 1, "freq_width": -27}, "freq_width.1: Input should be greater than or equal to 0"),
        ({"time_masks": 1, "time_width_ratio": -0.1}, "time_width_ratio.1: Input should be greater than"),
        ({"time_masks": 1, "time_width": 2.5}, "time_width.1: Input should be a valid integer"),
        ({**TIME, "most_masked": 1.5}, "most_masked: Input should be less than or equal to 1 (seen: 1.5)"),
        ({**TIME, "most_masked": float("nan")}, "most_masked: Input should be"),
        ({**TIME, "fill": "noises"}, "did you mean 'noise'?"),
        ({**TIME, "freq_mask": 2}, "did you mean 'freq_masks'?"),
    ],
)
def test_options_that_mean_nothing_are_refused(fields, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        options(**fields)


def test_all_that_does_not_go_together_is_said_at_once():
    with pytest.raises(ConfigError, match=r"both set the number.*freq_width \[5, 5\] is empty"):
        options(**TIME, time_masks_ratio=0.1, freq_masks=1, freq_width=[5, 5])


def test_frequency_masks_wider_than_the_features_are_refused_with_both_numbers():
    policy = options(freq_masks=1, freq_width=27)
    with pytest.raises(ConfigError, match=r"\[0, 27\] is wider than features of 26 bins; set its end to 26"):
        draw(policy, torch.tensor([9]), 26, torch.tensor([1]))
    assert draw(policy, torch.tensor([9]), 27, torch.tensor([1]))


def test_a_number_is_a_range_from_zero():
    assert options(**TIME) == options(time_masks=2, time_width=[0, 40])
    assert options(time_masks=2, time_width_ratio=0.1) == options(time_masks=2, time_width_ratio=[0, 0.1])


def test_time_masks_can_be_switched_off_by_their_number():
    assert options(**TIME, time_warp=5).has_time_masks
    assert not options(time_warp=5, time_masks=0, time_width=40).has_time_masks


@by_name
def test_published_policies_hold_the_numbers_of_their_papers(name):
    spec = options(**config.read_yaml(CONF / f"{name}.yaml")["spec"])
    width = spec.time_width[1] if spec.time_width else spec.time_width_ratio[1]
    bound = spec.time_width_bound if spec.time_width else spec.time_masks_ratio
    num = spec.most_time_masks if spec.time_masks is None else spec.time_masks
    held = (spec.time_warp, spec.freq_width[1], spec.freq_masks, width, bound, num)
    assert held == PAPERS[name][1]


@by_name
def test_published_policies_name_their_paper_and_the_source_of_each_value(name):
    first, *lines = (CONF / f"{name}.yaml").read_text().splitlines()
    assert f"arXiv:{PAPERS[name][0]}" in first
    assert all(" # " in line for line in lines if line.startswith("  "))
