"""Time SpecAugment: ours, ESPnet's, and for comparison a training step, on the same batch."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from adaptkit.augment.keyed_random import make_key
from adaptkit.augment.specaugment import SpecAugment, augment, count_time_masks
from adaptkit.base.build import build_specaug
from adaptkit.base.checkpoint import BaseModel
from adaptkit.bench.batch import draw_batch
from adaptkit.bench.timed import Meter, now, training_step
from adaptkit.data.batches import Batch, plan_batches
from adaptkit.errors import ConfigError
from adaptkit.features.fbank import FbankOptions
from adaptkit.model.adapted import AdaptedModel

OURS = "adaptkit"
CALLS = 10  # augmentations per round
STEP_FRAMES = 12000  # per pass, with padding, the training default; all at once would take over 20 GB
TOKENS_PER_SEC = 3  # of speech, with a vocabulary of about 500

Augment = Callable[[Tensor, int], object]  # (features (B, T, F), call number); may modify the features


@dataclass(frozen=True)
class Spread:
    """The batch to time: utterances of evenly spaced lengths."""

    num_utterances: int
    shortest_sec: float
    longest_sec: float

    def lengths(self) -> Tensor:
        """Return the length of each utterance in frames of 10 ms (B,)."""
        seconds = torch.linspace(self.longest_sec, self.shortest_sec, self.num_utterances)
        return (seconds * 1000 / FbankOptions.shift_ms).round().long()


@dataclass(frozen=True)
class BatchCost:
    """Time and memory per batch."""

    name: str
    seconds: float  # median
    peak_mb: float  # above the memory in use before


def time_augmentation(
    spec: SpecAugment, spread: Spread, base: BaseModel | None = None, *, num_rounds: int, device: str
) -> list[BatchCost]:
    """Time ours, ESPnet's and, with a model, its training step, interleaved so that other load affects all.

    Ours draws masks by each utterance's own length; ESPnet's is configured as similarly as possible, see
    `nearest_conf`. A step accumulates gradients over all utterances, STEP_FRAMES at a time.
    """
    lengths = spread.lengths().to(device)
    batch = _draw_batch(lengths, base)
    feats = batch.inputs
    espnet = build_specaug(nearest_conf(spec, lengths))
    keys = torch.tensor([[make_key(0, call, utt_id) for utt_id in batch.utt_ids] for call in range(CALLS)])
    keys = keys.to(device)
    sides: dict[str, Augment] = {
        OURS: lambda feats, call: augment(spec, feats, lengths, keys[call]),
        "ESPnet": lambda feats, call: espnet(feats, lengths),
    }
    meters = {name: Meter(batch.inputs.device) for name in sides}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    parts = plan_batches(lengths.tolist(), STEP_FRAMES)
    steps = [training_step("training step", AdaptedModel(base).train(), batch, parts=parts)] if base else []
    for _ in range(num_rounds + 1):  # the first warms up
        for name, run in sides.items():
            with meters[name].running():  # for memory only, since measuring it slows the call down
                run(feats.clone(), 0)
            # ESPnet's modifies its input, so it gets a copy, made outside the measured time
            given = (feats if name == OURS else feats.clone() for _ in range(CALLS))
            seconds[name] += [_time(run, own, call) for call, own in enumerate(given)]
        for one in steps:
            one.step()
    ours = [
        BatchCost(name, statistics.median(seconds[name][CALLS:]), meter.medians()[1])
        for name, meter in meters.items()
    ]
    return ours + [BatchCost(cost.name, cost.seconds, cost.peak_mb) for cost in (s.cost(s) for s in steps)]


def nearest_conf(spec: SpecAugment, lengths: Tensor) -> dict[str, object]:
    """Return the options of ESPnet's SpecAug that are closest to ours for utterances of some lengths (B,).

    Its number of time masks is fixed, so ours is averaged, and their width scales with the padded length.
    """
    num_masks = round(float(count_time_masks(spec, lengths).double().mean()))
    conf: dict[str, object] = {
        "apply_time_warp": spec.time_warp > 0,
        "apply_freq_mask": spec.freq_masks > 0,
        "apply_time_mask": num_masks > 0,
        "replace_with_zero": spec.fill == "zero",
    }
    if spec.time_warp:
        conf["time_warp_window"] = spec.time_warp
    if spec.freq_masks:
        conf |= {"num_freq_mask": spec.freq_masks, "freq_mask_width_range": list(spec.freq_width)}
    if num_masks:
        key = "time_mask_width_range" if spec.time_width else "time_mask_width_ratio_range"
        conf |= {"num_time_mask": num_masks, key: list(spec.time_width or spec.time_width_ratio)}
    return conf


def _time(run: Augment, feats: Tensor, call: int) -> float:
    """Time a call."""
    started = now(feats.device)
    run(feats, call)
    return now(feats.device) - started


def _draw_batch(lengths: Tensor, base: BaseModel | None) -> Batch:
    """Draw a batch of random features with a realistic number of tokens for their lengths (B,)."""
    if base and base.features is None:
        raise ConfigError(f"{base.path}: reads speech; use a model that reads features (input_size)")
    token_lengths = (TOKENS_PER_SEC * lengths * FbankOptions.shift_ms / 1000).long().clamp(min=1)
    return draw_batch(base, lengths, token_lengths, [-1] * len(lengths))
