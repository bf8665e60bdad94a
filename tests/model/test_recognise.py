"""Decoding: from batches of mixed tasks to a folder of hypotheses."""

from dataclasses import replace

import pytest
import torch

from adaptkit.data.dataset import read_examples
from adaptkit.features.archive import load_feats
from adaptkit.model.adapted import AdaptedModel
from adaptkit.model.recognise import plan_decoding, recognise


@pytest.fixture
def adapted(base, new_stack):
    """The tiny Conformer with adapters that say different things."""
    return AdaptedModel(base, new_stack(base, is_trained=True)).eval()


def said(adapted, examples, batch_frames=12000):
    with adapted.hooked():
        return recognise(adapted, examples, batch_frames)


def test_every_utterance_is_decoded_once_in_order(adapted, examples):
    found = [hypothesis.utt_id for hypothesis in said(adapted, examples)]
    assert found == sorted(utterance.utt_id for utterance in examples.data.utterances)


@pytest.mark.parametrize("batch_frames", [1, 150, 400])
def test_the_text_does_not_depend_on_the_batches(adapted, examples, batch_frames):
    whole, divided = said(adapted, examples), said(adapted, examples, batch_frames)
    assert [h.text for h in divided] == [h.text for h in whole]
    assert [h.score for h in divided] == pytest.approx([h.score for h in whole], abs=1e-2)
    assert any(h.text for h in whole)


@pytest.mark.parametrize("batch_frames", [1, 150])
def test_the_text_does_not_depend_on_the_batches_with_legacy_positions(
    new_base, new_stack, corpus, batch_frames
):
    conf = {"output_size": 16, "attention_heads": 2, "num_blocks": 2, "linear_units": 16}
    base = new_base(encoder_conf=conf)
    examples = read_examples(corpus / "dump/train", base)
    adapted = AdaptedModel(base, new_stack(base)).eval()
    whole, divided = said(adapted, examples), said(adapted, examples, batch_frames)
    assert [h.text for h in divided] == [h.text for h in whole]


def test_each_utterance_is_decoded_with_its_own_task(adapted, examples):
    mixed = {h.utt_id: h for h in said(adapted, examples)}
    for task, speaker in enumerate(("spk1", "spk10", "spk2")):
        alone = said(adapted, replace(examples, task_ids=dict.fromkeys(("spk1", "spk10", "spk2"), task)))
        own = [h for h in alone if h.utt_id.startswith(f"{speaker}-")]
        assert len(own) == 6
        assert [mixed[h.utt_id].text for h in own] == [h.text for h in own]


def test_another_task_gives_another_score(adapted, examples):
    first, second = (
        said(adapted, replace(examples, task_ids=dict.fromkeys(("spk1", "spk10", "spk2"), task)))
        for task in (0, 1)
    )
    assert all(one.score != other.score for one, other in zip(first, second, strict=True))


def test_a_score_is_the_best_path_of_the_utterance_alone(adapted, examples):
    hypothesis, utterance = said(adapted, examples)[0], examples.data.utterances[0]
    feats = load_feats(examples.data.feats[utterance.utt_id])[None]
    with torch.no_grad(), adapted.hooked(), adapted.adapters.for_tasks((0,)):
        encoded, _ = adapted.espnet.encode(feats, torch.tensor([feats.shape[1]]))
    best = adapted.espnet.ctc.log_softmax(encoded).max(dim=-1).values.sum()
    assert hypothesis.score == pytest.approx(float(best), abs=1e-3)


def test_padding_of_a_decoding_batch_is_at_most_a_fifth(base, examples):
    lengths = tuple(40 + 37 * index % 400 for index in range(len(examples)))
    plan = plan_decoding(AdaptedModel(base, is_frozen=True), replace(examples, lengths=lengths), 10**6)

    assert sorted(index for batch in plan for index in batch) == list(range(len(examples)))
    for batch in plan:
        own = [lengths[index] for index in batch]
        assert min(own) >= 0.8 * max(own) - 1
