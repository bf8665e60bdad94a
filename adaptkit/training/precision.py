"""Mixed precision, per-step seeds, and the search for losses that are not finite."""

import math
import random
from collections.abc import Sequence

import numpy as np
import torch

from adaptkit.data.batches import Batch
from adaptkit.model.adapted import AdaptedModel


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return the autocast context for `precision`; it is disabled for float32."""
    return torch.autocast(device.type, dtype=getattr(torch, precision), enabled=precision != "float32")


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
