"""egs/mini/local/prepare.py: who says what, and how it sounds."""

import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from adaptkit.corpora.espeak import synthesise, write_script
from adaptkit.kaldi import datadir

SCRIPT = Path(__file__).parents[2] / "egs" / "mini" / "local" / "prepare.py"
RECIPE = runpy.run_path(str(SCRIPT))
WHOLE = write_script(RECIPE["SETS"], per_speaker=100)
SETS = ("base_train", "base_valid", "base_test", "adapt_train", "adapt_valid", "adapt_test")
UNUSUAL = {line.voice.speaker: line for line in WHOLE["adapt_test"]}
ORDINARY = {line.voice.speaker: line for line in WHOLE["base_test"]}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """One utterance of every voice in every set."""
    folder = tmp_path_factory.mktemp("mini") / "data"
    RECIPE["main"](folder, nj=1, per_speaker=1)
    return folder


def say(line):
    return synthesise(replace(line, text="MOVE YELLOW CHAIR NEAR KITCHEN")).astype(float)


def test_no_sentence_is_spoken_twice():
    texts = [line.text for lines in WHOLE.values() for line in lines]
    assert len(texts) == len(set(texts))


@pytest.mark.parametrize(("name", "voices"), [(s, 14 if s.startswith("base") else 6) for s in SETS])
def test_every_set_has_all_voices_of_its_kind_equally_often(name, voices):
    speakers = [line.voice.speaker for line in WHOLE[name]]
    assert len(set(speakers)) == voices
    assert {speakers.count(speaker) for speaker in speakers} == {len(speakers) // voices}


def test_no_unusual_voice_is_heard_in_base_training():
    assert not set(UNUSUAL) & set(ORDINARY)


@pytest.mark.parametrize("name", ["base_train", "adapt_train"])
def test_training_holds_every_word(name):
    words = {word for lines in WHOLE.values() for line in lines for word in line.text.split()}
    assert {word for line in WHOLE[name] for word in line.text.split()} == words


@pytest.mark.parametrize("speaker", list(UNUSUAL))
def test_speech_is_loud_enough_and_never_clipped(speaker):
    speech = say(UNUSUAL[speaker]) / 32768
    level_db = 10 * np.log10(np.mean(speech**2))
    assert -33 < level_db < -21
    assert np.abs(speech).max() < 0.99


def test_fast_is_shorter_and_slow_longer_than_any_ordinary_voice():
    lengths = [len(say(line)) for line in ORDINARY.values()]
    assert len(say(UNUSUAL["fast"])) < min(lengths)
    assert len(say(UNUSUAL["slow"])) > max(lengths)


@pytest.mark.parametrize("name", SETS)
def test_every_text_fits_the_encoder_frames(data, name, assert_fits_ctc):
    assert_fits_ctc(data / name)


@pytest.mark.parametrize("name", SETS)
def test_the_script_makes_every_set(data, name):
    read = datadir.read(data / name)
    assert {u.speaker for u in read.utterances} == {line.voice.speaker for line in WHOLE[name]}
    assert {u.utt_id: u.text for u in read.utterances} == {
        line.utt_id: line.text for line in WHOLE[name] if line.number == 1
    }
