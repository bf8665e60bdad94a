"""The benchmark of SpecAugment: what is compared."""

import pytest
import torch

from adaptkit.augment.specaugment import SpecAugment
from adaptkit.base.build import build_specaug
from adaptkit.bench import augment as bench_augment

LIBRI = SpecAugment(time_warp=80, freq_masks=2, freq_width=27, time_masks_ratio=0.04, time_width_ratio=0.04)
SPREAD = bench_augment.Spread(num_utterances=3, shortest_sec=1.0, longest_sec=3.0)


def test_lengths_are_spread_evenly():
    assert SPREAD.lengths().tolist() == [300, 200, 100]


def test_espnet_gets_the_mean_number_of_masks():
    conf = bench_augment.nearest_conf(LIBRI, SPREAD.lengths())

    assert conf["num_time_mask"] == 8  # of 12, 8 and 4
    assert conf["time_mask_width_ratio_range"] == [0, 0.04]
    assert (conf["time_warp_window"], conf["freq_mask_width_range"]) == (80, [0, 27])


@pytest.mark.parametrize(
    "spec", [LIBRI, SpecAugment(time_masks=2, time_width=20, fill="mean"), SpecAugment(time_warp=5)]
)
def test_espnet_takes_the_nearest_options(spec):
    module = build_specaug(bench_augment.nearest_conf(spec, SPREAD.lengths()))

    feats, _ = module(torch.randn(3, 300, 80), SPREAD.lengths())

    assert feats.shape == (3, 300, 80)


@pytest.mark.slow
def test_both_augmentations_and_the_step_are_timed(base):
    spec = SpecAugment(time_masks=2, time_width=20, freq_masks=1, freq_width=5)

    before = {name: tensor.clone() for name, tensor in base.model.state_dict().items()}

    costs = bench_augment.time_augmentation(spec, SPREAD, base, num_rounds=1, device="cpu")

    assert all(torch.equal(before[name], tensor) for name, tensor in base.model.state_dict().items())
    assert [cost.name for cost in costs] == ["adaptkit", "ESPnet", "training step"]
    assert min(cost.seconds for cost in costs) > 0
