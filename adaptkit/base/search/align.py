"""Align the tokens of a hypothesis with the frames of CTC, by the best path that collapses to them."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

_BLANK = 0


def align(log_probs: Tensor, tokens: Sequence[int]) -> tuple[tuple[int, int], ...] | None:
    """Return the first frame of each token and the one after its last; None if CTC cannot emit the tokens.

    `log_probs` (U, V) are CTC's, without padding. CTC emits a token in few frames, often a single one near
    the middle of its sound, so the frames mark where a token is rather than its borders.

    >>> import torch
    >>> align(torch.tensor([[0.1, 0.9], [0.1, 0.9], [0.8, 0.2], [0.3, 0.7]]).log(), [1, 1])
    ((0, 2), (3, 4))
    """
    num_repeats = sum(left == right for left, right in zip(tokens, tokens[1:], strict=False))
    if len(tokens) + num_repeats > len(log_probs):
        return None
    if not tokens:
        return ()
    states = np.full(2 * len(tokens) + 1, _BLANK)  # a blank before, between and after the tokens
    states[1::2] = tokens
    path = _best_path(log_probs[:, states.tolist()].double().cpu().numpy(), states)
    spans = (np.flatnonzero(path == 2 * index + 1) for index in range(len(tokens)))
    return tuple((int(frames[0]), int(frames[-1]) + 1) for frames in spans)


def _best_path(scores: np.ndarray, states: np.ndarray) -> np.ndarray:
    """Return the state of each frame (U,) on the best path through `scores` (U, S)."""
    num_frames, num_states = scores.shape
    may_skip = np.zeros(num_states, dtype=bool)  # skip the blank between two different tokens
    may_skip[2:] = (states[2:] != _BLANK) & (states[2:] != states[:-2])
    best = np.full(num_states, -np.inf)
    best[:2] = scores[0, :2]
    steps = np.zeros((num_frames, num_states), dtype=np.int8)  # states advanced since the last frame
    for frame in range(1, num_frames):
        choices = np.full((3, num_states), -np.inf)
        choices[0], choices[1, 1:] = best, best[:-1]
        choices[2, 2:] = np.where(may_skip[2:], best[:-2], -np.inf)
        steps[frame] = choices.argmax(axis=0)
        best = choices.max(axis=0) + scores[frame]
    state = num_states - 1 if best[-1] > best[-2] else num_states - 2
    path = np.zeros(num_frames, dtype=int)
    for frame in reversed(range(num_frames)):
        path[frame] = state
        state -= int(steps[frame, state])
    return path
