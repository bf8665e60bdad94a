"""Exclude timestamps from the hypotheses of an OWSM model, which is prompted for none."""

from typing import Any

import torch
from torch import Tensor

from adaptkit.base.classes import import_class

BatchScorerInterface = import_class("espnet.nets.scorer_interface.BatchScorerInterface")


class NoTimestamps(BatchScorerInterface):
    """A scorer that excludes timestamp tokens, as `ScoreFilter` of espnet2.bin.s2t_inference does."""

    def __init__(self, num_tokens: int, times: tuple[int, int]):
        self.scores = torch.zeros(num_tokens)
        self.scores[times[0] : times[1] + 1] = -torch.inf

    def score(self, y: Tensor, state: Any, x: Tensor) -> tuple[Tensor, Any]:
        """Return the scores (V,) that follow a prefix y (L,); there is no state."""
        self.scores = self.scores.to(x)  # once, from the CPU
        return self.scores, None

    def batch_score(self, ys: Tensor, states: list[Any], xs: Tensor) -> tuple[Tensor, list[Any]]:
        """Return the scores (B, V) that follow prefixes ys (B, L)."""
        scores, state = self.score(ys, None, xs)
        return scores.expand(len(ys), -1), [state] * len(ys)
