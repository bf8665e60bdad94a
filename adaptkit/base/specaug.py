"""Mask features inside an ESPnet model, and convert the model's own SpecAugment settings to ours.

ESPnet masks within the model, only in train() mode, before features are normalised, and by the padded
length of the batch. Here features are masked after normalisation, in any mode and by each utterance's own
length. So an adapter on a frozen base model is trained with the same masks as the base model itself, and
zero is the mean that normalisation subtracts: of the training set with ESPnet's global_mvn, of the
utterance with utterance_mvn.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from adaptkit import config
from adaptkit.augment.specaugment import SpecAugment
from adaptkit.errors import ConfigError

_LOG = logging.getLogger(__name__)
Change = Callable[[Tensor, Tensor], Tensor]


@contextmanager
def changing_features(model: nn.Module, change: Change) -> Iterator[None]:
    """Replace the encoder's input by `change` of the normalised features (B, T, F) and frames (B,)."""
    first = model.encoder if model.preencoder is None else model.preencoder

    def replace_first(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        feats, lengths, *others = args
        return change(feats, lengths), lengths, *others

    handle = first.register_forward_pre_hook(replace_first)
    try:
        yield
    finally:
        handle.remove()


def translate(model_config: Mapping[str, Any]) -> SpecAugment | None:
    """Convert a model's SpecAugment (`espnet2.asr.specaug.specaug.SpecAug`) to ours; None if it has none.

    Numbers and widths keep their meaning. There are three differences: a ratio refers to the utterance's own
    length; masks contain the mean, whereas ESPnet sets zeros before normalisation; and the warp is linear and
    drawn for each utterance.
    """
    if model_config.get("specaug") is None:
        return None
    given = {**_DEFAULTS, **(model_config.get("specaug_conf") or {})}
    where = "specaug_conf"
    unknown = sorted(set(given) - set(_DEFAULTS))
    if model_config["specaug"] != "specaug" or unknown:
        known = f"specaug: specaug with {', '.join(_DEFAULTS)}"
        raise ConfigError(
            f"{where}: not ESPnet's SpecAug ({', '.join(unknown) or model_config['specaug']}); {known}"
        )
    content: dict[str, Any] = {"fill": "zero" if given["replace_with_zero"] else "mean"}
    if given["apply_time_warp"]:
        content["time_warp"] = given["time_warp_window"]
    if given["apply_freq_mask"]:
        content |= {"freq_masks": given["num_freq_mask"], "freq_width": given["freq_mask_width_range"]}
    if given["apply_time_mask"]:
        widths = {
            "time_width": given["time_mask_width_range"],
            "time_width_ratio": given["time_mask_width_ratio_range"],
        }
        content |= {"time_masks": given["num_time_mask"], **widths}
    return config.check(SpecAugment, content, where)


_DEFAULTS = {  # defaults of SpecAug's options in ESPnet 202511
    "apply_time_warp": True,
    "time_warp_window": 5,
    "time_warp_mode": "bicubic",
    "apply_freq_mask": True,
    "freq_mask_width_range": (0, 20),
    "num_freq_mask": 2,
    "apply_time_mask": True,
    "time_mask_width_range": None,
    "time_mask_width_ratio_range": None,
    "num_time_mask": 2,
    "replace_with_zero": True,
}
