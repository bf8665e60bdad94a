"""Greedy CTC search against paths worked by hand."""

from types import SimpleNamespace

import pytest
import torch

from adaptkit.base.search.greedy import collapse, greedy
from adaptkit.errors import CheckpointError


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


def test_a_model_without_ctc_is_refused(new_base):
    conf = {"attention_heads": 2, "linear_units": 16, "num_blocks": 1}
    model = new_base(decoder="transformer", decoder_conf=conf, model_conf={"ctc_weight": 0.0}).model
    with pytest.raises(CheckpointError, match="has no CTC"):
        greedy(model, torch.zeros(1, 60, 16), torch.tensor([60]))
