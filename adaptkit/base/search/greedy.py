"""Greedy CTC search (Graves et al., 2006): the best token of every frame, without repeats and blanks."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from adaptkit.errors import CheckpointError


@dataclass(frozen=True)
class BestPath:
    """The best path of one utterance: its tokens, and the sum of its frames' log probabilities."""

    tokens: list[int]
    score: float


def greedy(model: nn.Module, encoded: Tensor, frames: Tensor) -> list[BestPath]:
    """Find the best path of each row of encoder outputs (B, U, D) with numbers of frames (B,)."""
    if model.ctc is None:
        raise CheckpointError(
            "the base model has no CTC (model_conf.ctc_weight: 0.0), which greedy search needs"
        )
    scores, best = model.ctc.log_softmax(encoded).max(dim=-1)  # (B, U) each
    return [
        BestPath(collapse(row[:length]), float(row_scores[:length].sum(dtype=torch.float64)))
        for row, row_scores, length in zip(best, scores, frames.tolist(), strict=True)
    ]


def collapse(frames: Tensor, blank: int = 0) -> list[int]:
    """Merge repeated tokens, then drop blanks.

    >>> collapse(torch.tensor([0, 3, 3, 0, 3, 4, 4]))
    [3, 3, 4]
    """
    merged = torch.unique_consecutive(frames)
    return merged[merged != blank].tolist()
