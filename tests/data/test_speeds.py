"""Utterances at several speeds in training."""

import shutil
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch

from adaptkit.augment.policy import Policy
from adaptkit.data.batches import load_batches
from adaptkit.data.dataset import number_tasks, read_examples
from adaptkit.errors import ConfigError, DataError
from adaptkit.features.fbank import FbankOptions, log_mel
from adaptkit.kaldi import probing, recording
from adaptkit.kaldi.audio import read_audio
from adaptkit.kaldi.perturb import at_speed
from adaptkit.kaldi.tables import read_table, write_table
from adaptkit.training import augmentation
from tests.fixtures.models import SPEAKERS

SPEEDS = (0.9, 1.0, 1.1)
SPEECH = {"fs": 8000, "n_fft": 256, "hop_length": 80, "n_mels": 20}


def at(examples, speeds=SPEEDS, *, seed=0, epoch=0, **parts):
    policy = Policy.model_validate({"speed": speeds, **parts})
    return augmentation.augmented(examples, policy, seed).in_epoch(epoch)


def speech_of(examples, utterance):
    return read_audio(examples.data.recordings[utterance.recording], rate_hz=8000)


def inputs_of(examples, plan, num_workers=0):
    """Return the features of each utterance in batches, without padding."""
    return {
        utt_id: row[:length]
        for batch in load_batches(examples, plan, num_workers)
        for utt_id, row, length in zip(batch.utt_ids, batch.inputs, batch.lengths, strict=True)
    }


def test_features_are_those_of_the_speech_at_the_speed_drawn(examples):
    played = at(examples)
    for index, utterance in enumerate(examples.data.utterances):
        speed = played.augmentation.choose(utterance.utt_id).speed
        changed = log_mel(at_speed(speech_of(examples, utterance), speed), FbankOptions(8000, 20))
        assert torch.equal(played[index].inputs, examples[index].inputs if speed == 1 else changed)


def test_speeds_are_drawn_evenly_and_anew_in_each_epoch(examples):
    ids, policy = [u.utt_id for u in examples.data.utterances], at(examples).augmentation
    drawn = [[policy.in_epoch(epoch).choose(i).speed for i in ids] for epoch in range(60)]
    counts = Counter(speed for epoch in drawn for speed in epoch)
    assert all(abs(counts[speed] - 360) < 4 * (1080 * 2 / 9) ** 0.5 for speed in SPEEDS)
    assert drawn[0] != drawn[1]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_epoch_is_the_same_in_any_batch_or_process_and_when_it_is_resumed(examples, num_workers):
    rows = list(range(18))
    whole = inputs_of(at(examples, epoch=3), [rows])
    again = inputs_of(at(examples).in_epoch(3), [rows[::-1][:9], rows[::-1][9:]], num_workers)
    assert whole.keys() == again.keys()
    assert all(torch.equal(whole[utt_id], again[utt_id]) for utt_id in whole)


def test_a_speed_of_one_alone_changes_nothing(examples):
    assert augmentation.augmented(examples, Policy(speed=(1.0,)), 0) == examples


def test_noise_is_added_at_the_speed(examples, tmp_path):
    soundfile.write(tmp_path / "hiss.wav", 0.1 * np.random.default_rng(0).normal(size=16000), 8000)
    noise = {"noises": [tmp_path], "room_share": 0.0}
    played = at(examples, (0.9,), noise=noise, mix={"noisy": 1.0})
    chosen = played.augmentation.choose("spk1-00")
    slow = at_speed(speech_of(examples, examples.data.utterances[0]), 0.9)
    expected = log_mel(played.augmentation.bank.perturb(slow, chosen.key).speech, FbankOptions(8000, 20))
    assert torch.equal(played[0].inputs, expected)


@pytest.mark.parametrize("reads_speech", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_batches_are_planned_by_the_lengths_at_the_slowest_speed(corpus, new_base, base, reads_speech):
    if reads_speech:
        base = new_base(input_size=None, frontend="default", frontend_conf=SPEECH, adaptkit=None)
    read = read_examples(corpus / "dump/train", base)
    slow, played = at(read, (0.5,)), at(read, (0.5, 2.0))
    assert slow.lengths == played.lengths
    shift = 80 if reads_speech else 1
    assert all(abs(len(slow[i].inputs) / shift - slow.lengths[i]) <= 1 for i in range(len(read)))
    assert played.audio_sec == read.audio_sec


def test_an_utterance_is_not_played_too_fast_for_its_text(examples, caplog):
    text = "AB" * 6  # as many tokens as there are frames at 1.1, but not at 2
    first, *others = examples.data.utterances
    data = replace(examples.data, utterances=(replace(first, text=text), *others))
    limited = at(replace(examples, data=data), (0.9, 2.0))
    assert limited.augmentation.speeds_of["spk1-00"] == (0.9,)
    assert "1 utterance too short for the text, or too long, at some speeds" in caplog.text
    assert {limited.in_epoch(e).augmentation.choose("spk1-00").speed for e in range(30)} == {0.9}
    alone = at(replace(examples, data=data), (2.0,))
    assert alone.augmentation.choose("spk1-00").speed == 1.0


def test_an_encoder_that_needs_equal_lengths_is_refused(corpus, new_base):
    conf = {"output_size": 16, "attention_heads": 2, "linear_units": 24, "num_blocks": 1, "block_size": 8}
    conf |= {"hop_size": 4, "look_ahead": 2}
    model = new_base(encoder="contextual_block_transformer", encoder_conf=conf)
    read = read_examples(corpus / "dump/train", model)
    with pytest.raises(ConfigError, match="set speed: null, and train on a copy made by 'adaptkit data per"):
        at(read)
    assert at(read, (1.0,)) == read


def test_features_of_another_making_are_refused(base, corpus, tmp_path):
    data = shutil.copytree(corpus / "dump/train", tmp_path / "train")
    soundfile.write(tmp_path / "other.wav", np.random.default_rng(0).normal(size=4000) / 9, 8000)
    write_table(data / "wav.scp", dict.fromkeys(read_table(data / "wav.scp"), str(tmp_path / "other.wav")))
    read = read_examples(data, base)
    read = replace(read, task_ids=number_tasks(read.data, SPEAKERS))
    with pytest.raises(DataError, match="which is used for noise and other speeds"):
        at(read)


def test_headers_are_read_once_for_lengths_and_speeds(corpus, new_base, monkeypatch):
    read = Counter()

    def probe(location, **options):
        read[location] += 1
        return recording.probe(location, **options)

    monkeypatch.setattr(probing, "probe", probe)
    base = new_base(input_size=None, frontend="default", frontend_conf=SPEECH, adaptkit=None)
    examples = at(read_examples(corpus / "dump/train", base))
    assert examples.lengths != examples.own_lengths
    assert set(read.values()) == {1}
    assert set(read) == set(examples.data.recordings.values())
