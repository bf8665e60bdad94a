"""Greedy CTC search (Graves et al., 2006): the best token of every frame, without repeats and blanks."""

import torch
from torch import Tensor, nn

from adaptkit.base.search.paths import BestPath


def greedy(model: nn.Module, encoded: Tensor, frames: Tensor) -> list[BestPath]:
    """Find the best path of each row of encoder outputs (B, U, D) with numbers of frames (B,)."""
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
