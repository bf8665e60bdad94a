"""Decoding: from batches of mixed tasks to a folder of hypotheses."""

import shutil
from dataclasses import replace

import pytest
import torch

from adaptkit import experiment
from adaptkit.base import checkpoint as base_checkpoint
from adaptkit.data.dataset import read_examples
from adaptkit.decoding.run import DecodeOptions, decode_folder
from adaptkit.errors import AdaptkitError, CheckpointError
from adaptkit.features.fbank import load_feats
from adaptkit.kaldi.tables import read_table, write_table
from adaptkit.model import checkpoint
from adaptkit.model.adapted import AdaptedModel
from adaptkit.model.recognise import recognise
from adaptkit.records import DecodeRecord, RunRecord
from adaptkit.scoring.wer import count_words
from adaptkit.training.validation import validate

pytestmark = pytest.mark.espnet


@pytest.fixture
def adapted(base, new_stack):
    """The tiny Conformer with adapters that say different things."""
    return AdaptedModel(base, new_stack(base, is_trained=True)).eval()


@pytest.fixture
def exp(base, base_dir, new_stack, settings, tmp_path):
    """An experiment's folder with such adapters."""
    stack = new_stack(base, is_trained=True)
    folder = tmp_path / "exp/tiny"
    experiment.save(settings(), folder / "config.yaml")
    checkpoint.save(folder / "adapter.safetensors", stack, base.fingerprint, 7, stack.state_dict())
    return folder


@pytest.fixture
def data(corpus, tmp_path):
    """The validation set with features, in a folder that a test may spoil."""
    return shutil.copytree(corpus / "dump/valid", tmp_path / "valid")


@pytest.fixture
def run(exp, data):
    """Decode into a folder; keywords replace options."""
    options = DecodeOptions(exp, data)
    return lambda **changes: decode_folder(replace(options, **changes), device="cpu")


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


# folders


def test_a_folder_is_decoded_into_text_scores_and_a_record(run, exp, data):
    out = run()
    assert out == exp / "decode_valid"
    assert (
        read_table(out / "text").keys()
        == read_table(out / "utt2score").keys()
        == read_table(data / "text").keys()
    )
    record = DecodeRecord.read(out / "run.json")
    frames = sum(int(count) for count in read_table(data / "utt2num_frames").values())
    assert (record.set_name, record.num_utterances) == ("valid", 6)
    assert record.audio_sec == pytest.approx(0.01 * frames)


def test_decoding_again_gives_the_same_files(run):
    first = (run() / "text").read_bytes()
    assert (run(batch_frames=1) / "text").read_bytes() == first


def test_the_base_alone_is_an_experiment_of_its_own(run, exp, base):
    out = run(base_only=True)
    assert out == exp.parent / "none/decode_valid"
    assert RunRecord.read(out.parent / "run.json").base_fingerprint == base.fingerprint
    assert (out / "text").read_text() != (run() / "text").read_text()


def test_a_base_folder_is_decoded_as_the_base_alone(run, base_dir, tmp_path):
    out = run(exp=base_dir, out=tmp_path / "here/decode_valid")
    assert DecodeRecord.read(out / "run.json").base_only
    assert (out / "text").read_text() == (run(base_only=True) / "text").read_text()


def test_an_unknown_task_is_refused_before_anything_is_written(run, exp, data):
    write_table(data / "utt2task", {**read_table(data / "utt2spk"), "spk1-00": "spk20"})
    with pytest.raises(CheckpointError, match=r"not 'spk20'; did you mean 'spk2'\?.*--unknown-speaker base"):
        run()
    assert not (exp / "decode_valid").exists()


def test_an_unknown_task_can_be_left_to_the_base(run, data):
    expected, base = read_table(run() / "text"), read_table(run(base_only=True) / "text")
    write_table(data / "utt2task", {**read_table(data / "utt2spk"), "spk1-00": "spk20"})
    found = read_table(run(unknown_speaker="base") / "text")
    assert found == {**expected, "spk1-00": base["spk1-00"]}


def test_an_utterance_too_short_for_the_encoder_has_no_words_and_is_named(run, data, caplog):
    write_table(data / "utt2num_frames", {**read_table(data / "utt2num_frames"), "spk2-00": "6"})
    found = read_table(run() / "text")
    assert found["spk2-00"] == ""
    assert len(found) == 6
    assert "too short for the encoder, no words: spk2-00" in caplog.text


def test_a_set_of_nothing_but_short_utterances_is_decoded_to_nothing(run, data):
    write_table(data / "utt2num_frames", dict.fromkeys(read_table(data / "utt2num_frames"), "3"))
    assert set(read_table(run() / "text").values()) == {""}


def test_another_base_is_refused(run, new_base, tmp_path):
    other = new_base(seed=1)
    base_checkpoint.save(tmp_path / "other", other.config, other.model.state_dict())
    with pytest.raises(CheckpointError, match="other is .*; give the folder of the right one with --base"):
        run(base=tmp_path / "other")


def test_a_base_that_moved_is_found_with_its_new_folder(run, base_dir, tmp_path):
    expected = (run() / "text").read_bytes()
    shutil.copytree(base_dir, tmp_path / "moved")
    assert (run(base=tmp_path / "moved") / "text").read_bytes() == expected


def test_an_experiment_that_is_not_there_is_named(run, tmp_path):
    with pytest.raises(AdaptkitError, match=r"nowhere/config.yaml: no such file"):
        run(exp=tmp_path / "nowhere")


def test_an_experiment_not_trained_yet_is_named_with_what_trains_it(run, exp):
    (exp / "adapter.safetensors").unlink()
    with pytest.raises(
        CheckpointError, match="adapter.safetensors: no such file; 'adaptkit train' writes it"
    ):
        run()
