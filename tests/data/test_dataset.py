"""Utterances as a base model reads them."""

import os
import shutil
from dataclasses import replace

import kaldiio
import numpy as np
import pytest
import soundfile
import torch

from adaptkit.augment.keyed_random import make_key
from adaptkit.augment.policy import Policy
from adaptkit.data.batches import load_batches
from adaptkit.data.dataset import (
    number_tasks,
    read_examples,
    refuse_other_features,
)
from adaptkit.data.short import find_frameless, too_short
from adaptkit.errors import CheckpointError, DataError
from adaptkit.features.archive import load_feats
from adaptkit.features.fbank import FbankOptions, log_mel
from adaptkit.kaldi.audio import read_audio
from adaptkit.kaldi.tables import read_table, write_table
from adaptkit.training import augmentation

SPEECH = {"fs": 8000, "n_fft": 256, "hop_length": 80, "n_mels": 20}


@pytest.fixture
def folder(corpus, tmp_path):
    """The validation set with features, in a folder that a test may spoil."""
    return shutil.copytree(corpus / "dump/valid", tmp_path / "valid")


def test_tasks_are_numbered_by_their_place(examples):
    assert number_tasks(examples.data, ("spk2", "spk10", "spk1")) == {"spk1": 2, "spk10": 1, "spk2": 0}


def test_an_unknown_task_is_refused_with_the_nearest(examples):
    expected = r"the adapters have 2 speakers \(spk1, spk20\), not 'spk10'; did you mean 'spk1'\?; 'spk2'"
    with pytest.raises(CheckpointError, match=expected):
        number_tasks(examples.data, ("spk1", "spk20"))


def test_an_unknown_task_can_be_left_to_the_base(examples):
    assert number_tasks(examples.data, ("spk2",), unknown="base") == {"spk1": -1, "spk10": -1, "spk2": 0}


def test_a_task_without_adapters_has_those_that_are_shared(examples):
    tasks = ("spk2", "shared")
    assert number_tasks(examples.data, tasks) == {"spk1": 1, "spk10": 1, "spk2": 0}
    assert number_tasks(examples.data, tasks, unknown="base") == {"spk1": -1, "spk10": -1, "spk2": 0}


def test_examples_without_some_keep_lengths_with_their_utterances(examples):
    fewer = examples.without({"spk1-00", "spk2-03"})
    kept = dict(zip((u.utt_id for u in examples.data.utterances), examples.lengths, strict=True))
    assert len(fewer) == len(examples) - 2
    assert all(kept[u.utt_id] == n for u, n in zip(fewer.data.utterances, fewer.lengths, strict=True))


def test_lengths_are_those_of_the_features(examples):
    frames = [len(load_feats(examples.data.feats[u.utt_id])) for u in examples.data.utterances]
    assert list(examples.lengths) == frames


def test_lengths_are_read_from_the_features_where_no_table_has_them(folder, base, forget_records):
    expected = read_examples(folder, base).lengths
    forget_records(folder)
    (folder / "utt2num_frames").unlink()
    assert read_examples(folder, base).lengths == expected


def test_a_truncated_archive_is_refused_before_the_first_batch(corpus, base, tmp_path):
    shutil.copytree(corpus / "dump/valid", tmp_path / "valid")
    table = read_table(tmp_path / "valid/feats.scp")
    own = {utt_id: f"{tmp_path}/valid/feats.1.ark:{x.rpartition(':')[2]}" for utt_id, x in table.items()}
    write_table(tmp_path / "valid/feats.scp", own)
    ark = tmp_path / "valid/feats.1.ark"
    os.truncate(ark, ark.stat().st_size - 1)
    with pytest.raises(DataError, match=r"feats.1.ark: truncated, .*; run 'adaptkit feats' again"):
        read_examples(tmp_path / "valid", base)


@pytest.mark.parametrize("count", ["", "many", "-3", "9" * 20, "9" * 5000, "\u0663"])
def test_a_table_of_lengths_with_a_hole_is_refused(folder, base, forget_records, count):
    forget_records(folder)
    write_table(folder / "utt2num_frames", {**read_table(folder / "utt2num_frames"), "spk1-00": count})
    with pytest.raises(DataError, match="utt2num_frames: no number for spk1-00; delete the file"):
        read_examples(folder, base)


def test_a_set_without_features_is_refused_with_the_command_that_makes_them(corpus, base):
    remedy = r"data/train dump/train --rate 8000 --num-bins 20' makes them"
    with pytest.raises(DataError, match=rf"no feats.scp.*'adaptkit feats .*{remedy}"):
        read_examples(corpus / "data/train", base)


def test_features_that_miss_an_utterance_are_refused(folder, base):
    table = read_table(folder / "feats.scp")
    del table["spk10-01"]
    write_table(folder / "feats.scp", table)
    with pytest.raises(DataError, match="feats.scp: missing spk10-01"):
        read_examples(folder, base)


def test_features_made_with_other_options_are_refused_with_both_values(folder, base):
    options = (folder / "feats.json").read_text()
    (folder / "feats.json").write_text(options.replace('"shift_ms": 10.0', '"shift_ms": 12.5'))
    with pytest.raises(DataError, match=r"not the features .* trained on: shift_ms 12.5 \(the model: 10.0\)"):
        read_examples(folder, base)


def test_features_of_another_width_are_refused(folder, base):
    (folder / "feats.json").unlink()  # as where Kaldi itself made them
    wider = replace(base, features={**base.features, "num_bins": 40})
    with pytest.raises(DataError, match="feats.scp: 20 bins, .* reads 40"):
        read_examples(folder, wider)


def test_speech_is_read_for_a_model_that_reads_speech(corpus, folder, new_base):
    base = new_base(input_size=None, frontend="default", frontend_conf=SPEECH, adaptkit=None)
    (batch,) = load_batches(read_examples(folder, base), [[0]])
    location = read_table(folder / "wav.scp")["spk1-00"]
    assert torch.equal(batch.inputs[0], torch.from_numpy(soundfile.read(location, dtype="float32")[0]))


@pytest.fixture
def speech_base(new_base):
    """A base model that reads speech."""
    return new_base(input_size=None, frontend="default", frontend_conf=SPEECH, adaptkit=None)


def test_lengths_of_speech_are_those_of_its_recordings_whatever_utt2dur_says(folder, speech_base):
    (folder / "utt2dur").write_text("spk1-00 0.02\n")
    stale = read_examples(folder, speech_base)
    (folder / "utt2dur").unlink()
    assert stale.lengths == read_examples(folder, speech_base).lengths
    assert not too_short(stale)


def test_lengths_of_speech_are_those_of_its_segments(folder, speech_base):
    utt_ids = read_table(folder / "text")
    write_table(folder / "segments", {utt_id: f"{utt_id} 0.1 0.4" for utt_id in utt_ids})
    (folder / "utt2dur").unlink()
    assert set(read_examples(folder, speech_base).lengths) == {31}  # 2400 samples // 80 + 1


def test_lengths_of_speech_are_those_of_what_the_frontend_makes_of_it(folder, speech_base):
    utt_ids = sorted(read_table(folder / "text"))
    ends = {utt_id: f"{0.4 + 0.0037 * place:.4f}" for place, utt_id in enumerate(utt_ids)}
    write_table(folder / "segments", {utt_id: f"{utt_id} 0.1 {end}" for utt_id, end in ends.items()})
    examples = read_examples(folder, speech_base)
    for index, length in enumerate(examples.lengths):
        speech = examples[index].inputs[None]
        feats, frames = speech_base.model.frontend(speech, torch.tensor([speech.shape[1]]))
        assert feats.shape[1] == int(frames) == length


def test_lengths_of_commands_are_those_of_utt2dur_or_of_what_they_give(folder, speech_base):
    locations = read_table(folder / "wav.scp")
    expected = read_examples(folder, speech_base).lengths
    write_table(folder / "wav.scp", {utt_id: f"cat {location} |" for utt_id, location in locations.items()})
    assert read_examples(folder, speech_base).lengths == expected
    (folder / "utt2dur").unlink()
    assert read_examples(folder, speech_base, allow_pipes=True).lengths == expected
    with pytest.raises(DataError, match="a shell command; allow it with --allow-pipes"):
        read_examples(folder, speech_base)


@pytest.mark.parametrize("stated", ["0.01", "90"])
def test_durations_of_commands_that_are_out_of_date_are_found_out(folder, speech_base, stated):
    locations = read_table(folder / "wav.scp")
    write_table(folder / "wav.scp", {utt_id: f"cat {location} |" for utt_id, location in locations.items()})
    (folder / "utt2dur").write_text("".join(f"{utt_id} {stated}\n" for utt_id in locations))
    examples = read_examples(folder, speech_base, allow_pipes=True)
    expected = f"utt2dur: spk1-00: {stated} s, but its audio has .* s; remove utt2dur"
    with pytest.raises(DataError, match=expected):
        examples[0]
    if stated == "0.01":  # which would leave them out
        for find in (find_frameless, too_short):
            with pytest.raises(DataError, match=expected):
                find(examples)


@pytest.mark.parametrize(
    ("text", "frames", "is_short"),
    [
        ("A", 7, False),  # one encoder frame for one token
        ("AB", 10, True),
        ("AB", 11, False),
        ("AA", 11, True),  # CTC needs a blank between them
        ("AA", 15, False),
        ("", 6, True),  # not even one encoder frame
    ],
)
def test_utterances_too_short_for_ctc_are_known(examples, text, frames, is_short):
    utterance = replace(examples.data.utterances[0], text=text)
    one = replace(examples, data=replace(examples.data, utterances=(utterance,)), lengths=(frames,))
    assert (utterance.utt_id in too_short(one)) == is_short


@pytest.mark.parametrize(("frames", "is_short"), [(6, True), (7, False)])
@pytest.mark.parametrize("decoder", ["transformer", "transducer"])
def test_without_ctc_in_the_loss_one_encoder_frame_is_enough(examples, new_base, decoder, frames, is_short):
    sizes = {"hidden_size": 8} if decoder == "transducer" else {"attention_heads": 2, "num_blocks": 1}
    base = new_base(decoder=decoder, decoder_conf=sizes, model_conf={"ctc_weight": 0.0})
    utterance = replace(examples.data.utterances[0], text="AB")
    data = replace(examples.data, utterances=(utterance,))
    one = replace(examples, base=base, data=data, lengths=(frames,))
    assert (utterance.utt_id in too_short(one)) == is_short


# noisy ones


@pytest.fixture
def noisy(tmp_path):
    """Make some share of a set noisy."""
    hiss = 0.1 * np.random.default_rng(0).normal(size=16000)
    soundfile.write(tmp_path / "hiss.wav", hiss, 8000)
    write_table(tmp_path / "noise.scp", {"hiss": str(tmp_path / "hiss.wav")})

    def make(examples, share=1.0):
        noise = {"noises": [tmp_path / "noise.scp"]}
        return augmentation.augmented(
            examples, Policy.model_validate({"noise": noise, "mix": {"noisy": share}}), 0
        )

    return make


def speech_of(examples, utterance):
    return read_audio(examples.data.recordings[utterance.recording], rate_hz=8000)


def test_noisy_features_are_those_of_noisy_speech_with_as_many_frames(examples, noisy):
    augmented = noisy(examples).in_epoch(3)

    for utterance, example, length in zip(examples.data.utterances, augmented, examples.lengths, strict=True):
        key = make_key(0, 3, utterance.utt_id)
        speech = augmented.augmentation.bank.perturb(speech_of(examples, utterance), key).speech
        expected = log_mel(speech, FbankOptions(rate_hz=8000, num_bins=20))
        assert example.chosen.is_noisy
        assert len(example.inputs) == length
        assert torch.equal(example.inputs, expected)


def test_clean_features_are_the_ones_on_disk(examples, noisy):
    augmented = noisy(examples, 0.5)

    for utterance, example in zip(examples.data.utterances, augmented, strict=True):
        stored = load_feats(examples.data.feats[utterance.utt_id])
        assert torch.equal(example.inputs, stored) != example.chosen.is_noisy


def test_a_model_that_reads_speech_is_given_noisy_speech(folder, new_base, noisy):
    base = new_base(input_size=None, frontend="default", frontend_conf=SPEECH, adaptkit=None)
    augmented = noisy(read_examples(folder, base))
    utterance, key = augmented.data.utterances[0], make_key(0, 0, "spk1-00")

    expected = augmented.augmentation.bank.perturb(speech_of(augmented, utterance), key).speech
    assert torch.equal(augmented[0].inputs, expected)


def test_a_segment_of_a_recording_is_made_noisy_by_itself(examples, noisy):
    utterance = replace(examples.data.utterances[0], start_sec=0.1, end_sec=0.4)
    feats = log_mel(speech_of(examples, utterance)[800:3200], FbankOptions(rate_hz=8000, num_bins=20))
    data = replace(examples.data, utterances=(utterance,))
    augmented = replace(noisy(examples), data=data)

    assert augmented[0].inputs.shape == feats.shape


def test_features_that_adaptkit_makes_are_known_for_what_they_are(examples):
    refuse_other_features(examples)

    first = examples.data.utterances[0]
    made = log_mel(speech_of(examples, first), FbankOptions(rate_hz=8000, num_bins=20))
    assert torch.equal(examples[0].inputs, made)


@pytest.mark.parametrize("change", [lambda x: x + 0.1, lambda x: x[:-1], lambda x: x[:, :19]])
def test_features_of_another_making_are_refused_with_the_utterance(examples, tmp_path, change):
    utterances = examples.data.utterances
    kaldiio.save_ark(
        str(tmp_path / "x.ark"),
        {u.utt_id: change(load_feats(examples.data.feats[u.utt_id])).numpy() for u in utterances[:1]},
        scp=str(tmp_path / "x.scp"),
    )
    other = replace(examples, data=replace(examples.data, feats=read_table(tmp_path / "x.scp")))

    with pytest.raises(DataError, match=r"feats\.scp: differs from .* 'adaptkit feats' \(spk1-00\)"):
        refuse_other_features(other)


def test_digital_silence_is_used_without_noise_and_said(examples, noisy, tmp_path, caplog):
    soundfile.write(tmp_path / "zeros.wav", np.zeros(4000), 8000)
    augmented = noisy(examples)
    recordings = {**examples.data.recordings, "spk1-01": str(tmp_path / "zeros.wav")}
    silent = replace(augmented, data=replace(examples.data, recordings=recordings))

    expected = log_mel(torch.zeros(4000), FbankOptions(rate_hz=8000, num_bins=20))
    assert torch.equal(silent[1].inputs, expected)
    assert "spk1-01 is digital silence, which has no SNR; it is used without noise" in caplog.text


def test_another_epoch_leaves_what_is_not_augmented_as_it_is(examples, noisy):
    assert examples.in_epoch(2) is examples
    augmented = noisy(examples)
    assert augmented.in_epoch(2) != augmented
    assert augmented.in_epoch(2).in_epoch(0) == augmented
