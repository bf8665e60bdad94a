"""Transducers of ESPnet with the loss of torchaudio in place of `warprnnt_pytorch`."""

import itertools
import sys

import pytest
import torch

from adaptkit.base import build
from adaptkit.base.padding import ignoring_padding
from adaptkit.base.transducer import TransducerLoss
from adaptkit.errors import ConfigError

TRANSDUCER = {
    "decoder": "transducer",
    "decoder_conf": {"hidden_size": 8, "num_layers": 2},
    "joint_net_conf": {"joint_space_size": 8},
    "model_conf": {"ctc_weight": 0.3, "report_wer": True},
}


@pytest.fixture(scope="module")
def transducer(new_base):
    """A tiny transducer with an auxiliary CTC."""
    return new_base(**TRANSDUCER)


def sum_over_alignments(logits, labels):
    """Sum the probabilities of all paths through logits (U, L + 1, V): U blanks, the last one at the end."""
    log_probs, total = logits.log_softmax(-1), []
    for places in itertools.combinations(range(len(logits) - 1 + len(labels)), len(labels)):
        frame, seen, score = 0, 0, 0.0
        for step in range(len(logits) - 1 + len(labels)):
            if step in places:
                score, seen = score + log_probs[frame, seen, labels[seen]], seen + 1
            else:
                score, frame = score + log_probs[frame, seen, 0], frame + 1
        total.append(score + log_probs[frame, seen, 0])
    return torch.stack(total).logsumexp(0)


def test_loss_is_that_of_all_alignments_added_up():
    torch.manual_seed(0)
    logits = torch.randn(2, 4, 3, 5)
    labels, frames, num_labels = torch.tensor([[1, 3], [2, 0]]), torch.tensor([4, 3]), torch.tensor([2, 1])
    rows = [sum_over_alignments(logits[0], [1, 3]), sum_over_alignments(logits[1, :3, :2], [2])]
    found = TransducerLoss()(logits, labels, frames, num_labels)
    torch.testing.assert_close(found, -torch.stack(rows).mean())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_padding_beyond_the_longest_row_changes_no_loss(dtype):
    logits = torch.randn(1, 6, 4, 5).to(dtype)
    lengths = torch.tensor([4]), torch.tensor([2])
    expected = TransducerLoss()(logits[:, :4, :3], torch.tensor([[1, 3]]), *lengths)
    assert TransducerLoss()(logits, torch.tensor([[1, 3, 0]]), *lengths) == expected


def test_an_empty_text_has_the_loss_of_blanks_alone():
    logits = torch.randn(1, 4, 1, 5)
    found = TransducerLoss()(logits, torch.zeros(1, 0), torch.tensor([4]), torch.tensor([0]))
    torch.testing.assert_close(found, -logits.log_softmax(-1)[0, :, 0, 0].sum())


def test_espnet_imports_the_loss_only_while_a_model_is_built(transducer):
    assert isinstance(transducer.model.criterion_transducer, TransducerLoss)
    assert "warprnnt_pytorch" not in sys.modules


def test_a_transducer_measures_no_error_rates_of_its_own(transducer):
    assert transducer.model.error_calculator is transducer.model.error_calculator_trans is None


def test_loss_of_a_batch_is_the_mean_of_its_rows(transducer, new_batch):
    batch = new_batch((0, 1, 2))

    def loss(rows):
        inputs, lengths = batch.inputs[rows].clone(), batch.lengths[rows]
        return transducer.model(inputs, lengths, batch.tokens[rows].clone(), batch.token_lengths[rows])[0]

    with torch.no_grad(), ignoring_padding(transducer.model):
        rows = [loss(slice(row, row + 1)) for row in range(3)]
        torch.testing.assert_close(loss(slice(0, 3)), torch.stack(rows).mean(0))


def test_several_blanks_are_refused(model_config):
    conf = {"transducer_multi_blank_durations": [2]}
    with pytest.raises(ConfigError, match="does not support the loss of multi-blank"):
        build.build(model_config(**{**TRANSDUCER, "model_conf": conf}))


def test_an_option_of_the_joint_network_is_passed_on_and_a_wrong_one_refused(model_config):
    wrong = {"joint_net_conf": {"joint_size": 8}}
    with pytest.raises(ConfigError, match="joint_net_conf: JointNetwork rejects"):
        build.build(model_config(**{**TRANSDUCER, **wrong}))
