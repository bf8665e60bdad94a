"""CTC alignment, beside all paths and beside greedy search."""

from itertools import product

import pytest
import torch

from adaptkit.base.search.align import align
from adaptkit.base.search.greedy import collapse


def runs(path):
    """The first frame and the one after the last of each token on a path, repeats merged."""
    starts = [u for u, token in enumerate(path) if token and (u == 0 or path[u - 1] != token)]
    ends = [u + 1 for u, token in enumerate(path) if token and (u + 1 == len(path) or path[u + 1] != token)]
    return tuple(zip(starts, ends, strict=True))


def scores(num_frames, num_tokens, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_frames, num_tokens, generator=generator).log_softmax(dim=-1)


@pytest.mark.parametrize("tokens", [[1], [1, 2], [1, 1], [2, 1, 2], [2, 2, 1]])
def test_no_path_of_the_tokens_is_better(tokens):
    log_probs = scores(6, 3, seed=len(tokens))
    paths = [path for path in product(range(3), repeat=6) if collapse(torch.tensor(path)) == tokens]
    best = max(paths, key=lambda path: sum(float(log_probs[u, token]) for u, token in enumerate(path)))

    assert align(log_probs, tokens) == runs(best)


def test_what_greedy_search_finds_is_aligned_as_it_was_found():
    log_probs = scores(40, 5, seed=0)
    path = log_probs.argmax(dim=-1)

    assert align(log_probs, collapse(path)) == runs(path.tolist())


def test_a_text_of_hundreds_of_tokens_is_aligned():
    log_probs = scores(900, 40, seed=0)
    path = log_probs.argmax(dim=-1)
    tokens = collapse(path)

    assert len(tokens) > 500
    assert align(log_probs, tokens) == runs(path.tolist())


def test_more_tokens_than_frames_have_no_alignment():
    assert align(scores(3, 3, seed=0), [1, 2, 1]) is not None
    assert align(scores(3, 3, seed=0), [1, 1, 2]) is None  # a blank must stand between equal ones
    assert align(scores(3, 3, seed=0), []) == ()
