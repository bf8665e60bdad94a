"""Mixed precision, per-step seeds, and the search for losses that are not finite."""

import math
import random
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from adaptkit.data.batches import Batch
from adaptkit.errors import ConfigError
from adaptkit.model.adapted import AdaptedModel

_FIRST_SCALE = 2.0**11  # float16 loss scale; the loss is a sum over utterances, torch's 2^16 suits a mean


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return the autocast context for `precision`; it is disabled for float32."""
    return torch.autocast(device.type, dtype=getattr(torch, precision), enabled=precision != "float32")


def make_scaler(model: nn.Module, device: torch.device, precision: str) -> torch.amp.GradScaler:
    """Return the loss scaler for `precision`, which scales in float16 alone.

    A precision that the recurrent layers of the model lack on this device is a ConfigError: on some CPUs
    torch has no LSTM in bfloat16.
    """
    for name, module in model.named_modules():
        if precision == "float32" or not isinstance(module, nn.RNNBase):
            continue
        try:
            with torch.no_grad(), autocast(device, precision):
                module(torch.zeros(1, 2, module.input_size, device=device))
        except RuntimeError as error:
            layer = f"{type(module).__name__} '{name}' of the base model"
            what = f"train.precision: {precision}: the {layer} cannot be computed in it on this {device.type}"
            raise ConfigError(f"{what}; use float32, or another device") from error
    return torch.amp.GradScaler(device.type, init_scale=_FIRST_SCALE, enabled=precision == "float16")


def seed_everything(seed: int, step: int, rank: int = 0) -> None:
    """Seed all global random generators for one step, for dropout.

    Each step has its own seed, so a resumed run draws the same numbers without saved generator states.
    """
    mixed = random.Random(f"{seed} {step} {rank}").getrandbits(32)
    torch.manual_seed(mixed)
    random.seed(mixed)
    np.random.seed(mixed)


def find_not_finite(adapted: AdaptedModel, batches: Sequence[Batch], precision: str) -> list[str]:
    """Return the utterances whose loss, computed one by one, is not finite."""
    found = []
    for batch in batches:
        for row, utt_id in enumerate(batch.utt_ids):
            with torch.no_grad(), autocast(batch.inputs.device, precision):
                if not math.isfinite(float(adapted.loss(batch.rows([row])))):
                    found.append(utt_id)
    return found
