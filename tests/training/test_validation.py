"""Validation: its rates and losses, in all and speaker by speaker."""

import pytest

from adaptkit.model.adapted import AdaptedModel
from adaptkit.model.recognise import recognise
from adaptkit.scoring.counts import count_words
from adaptkit.training.validation import validate


@pytest.fixture
def adapted(base, new_stack):
    """The tiny Conformer with adapters that say different things."""
    return AdaptedModel(base, new_stack(base, is_trained=True)).eval()


def said(adapted, examples, batch_frames=12000):
    with adapted.hooked():
        return recognise(adapted, examples, batch_frames)


def test_validation_rates_are_those_of_the_decoded_text(adapted, examples):
    hyps = {h.utt_id: h.text for h in said(adapted, examples)}
    with adapted.hooked():
        validation = validate(adapted, examples, 400)
    utterances = examples.data.utterances
    counts = count_words([u.text for u in utterances], [hyps[u.utt_id] for u in utterances])
    errors, words = sum(c.errors for c in counts), sum(len(u.text.split()) for u in utterances)
    assert validation.wer == round(100 * errors / words, 2)
    spk2 = [count.errors for count, u in zip(counts, utterances, strict=True) if u.speaker == "spk2"]
    spk2_words = sum(len(u.text.split()) for u in utterances if u.speaker == "spk2")
    assert validation.by_task["spk2"] == round(100 * sum(spk2) / spk2_words, 2)


def test_validation_of_a_task_is_bit_for_bit_that_of_a_set_of_its_own(adapted, examples):
    with adapted.hooked():
        validation = validate(adapted, examples, 200)
        for task in ("spk1", "spk10", "spk2"):
            own = examples.without([u.utt_id for u in examples.data.utterances if u.task != task])
            alone = validate(adapted, own, 200)
            assert validation.loss_by_task[task] == alone.loss == alone.loss_by_task[task]
            assert validation.by_task[task] == alone.wer
    assert validation.loss == pytest.approx(sum(validation.loss_by_task.values()) / 3)  # as many of each


def test_validation_loss_is_the_mean_over_utterances_whatever_the_batches(adapted, examples):
    with adapted.hooked():
        whole, divided = (validate(adapted, examples, frames) for frames in (12000, 1))
    assert whole.loss == pytest.approx(divided.loss, rel=1e-4)
