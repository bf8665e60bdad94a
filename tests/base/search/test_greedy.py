"""Greedy CTC search against paths worked by hand."""

from types import SimpleNamespace

import pytest
import torch

from adaptkit.base.search.greedy import collapse, greedy


@pytest.mark.parametrize(
    ("frames", "tokens"),
    [([], []), ([0, 0], []), ([3], [3]), ([3, 3], [3]), ([3, 0, 3], [3, 3]), ([0, 3, 4, 4, 0], [3, 4])],
)
def test_repeats_are_merged_then_blanks_dropped(frames, tokens):
    assert collapse(torch.tensor(frames, dtype=torch.long)) == tokens


def test_each_row_ends_at_its_own_length_and_scores_its_best_path():
    path = torch.tensor([[0.1, 0.9], [0.8, 0.2], [0.4, 0.6]])  # tokens 1, blank, 1
    model = SimpleNamespace(ctc=SimpleNamespace(log_softmax=torch.log))
    whole, cut = greedy(model, torch.stack([path, path]), torch.tensor([3, 1]))
    assert (whole.tokens, cut.tokens) == ([1, 1], [1])
    assert whole.score == pytest.approx(torch.tensor([0.9, 0.8, 0.6]).log().sum())
    assert cut.score == pytest.approx(torch.tensor(0.9).log())
