"""egs/voices/local/prepare.py: who says what, and that all of it can be said again."""

import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from adaptkit.speaking import locate, speak, write_script

EGS = Path(__file__).parents[2] / "egs"
SCRIPT = EGS / "voices" / "local" / "prepare.py"
WHOLE = write_script(runpy.run_path(str(SCRIPT))["SETS"], per_speaker=100)
VOICES = {"base": 14, "adapt": 32, "new": 8}
SETS = [(f"{kind}_{part}", count) for kind, count in VOICES.items() for part in ("train", "valid", "test")]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """One utterance of every voice in every set, spoken in two jobs."""
    folder = tmp_path_factory.mktemp("voices") / "data"
    command = [sys.executable, str(SCRIPT), str(folder), "--nj", "2", "--per-speaker", "1"]
    subprocess.run(command, check=True)
    return folder


def speakers_of(name):
    return {line.voice.speaker for line in WHOLE[name]}


def test_no_sentence_is_spoken_twice():
    texts = [line.text for lines in WHOLE.values() for line in lines]
    assert len(texts) == len(set(texts))


@pytest.mark.parametrize(("name", "count"), SETS)
def test_every_set_has_all_voices_of_its_kind_equally_often(name, count):
    speakers = [line.voice.speaker for line in WHOLE[name]]
    assert len(set(speakers)) == count
    assert {speakers.count(speaker) for speaker in speakers} == {len(speakers) // count}


def test_a_speaker_is_of_one_kind_only():
    assert len(set().union(*(speakers_of(f"{kind}_test") for kind in VOICES))) == 14 + 32 + 8


def test_no_two_speakers_have_the_same_voice():
    voices = {line.voice for lines in WHOLE.values() for line in lines}
    assert len({(v.espeak, v.wpm, v.pitch, v.played_hz, v.is_whispered) for v in voices}) == 14 + 32 + 8


def test_the_base_sets_are_those_of_mini():
    mini = write_script(runpy.run_path(str(EGS / "mini" / "local" / "prepare.py"))["SETS"], per_speaker=100)
    for name in ("base_train", "base_valid", "base_test"):
        assert WHOLE[name] == mini[name]


@pytest.mark.parametrize("name", ["base_train", "adapt_train", "new_train"])
def test_training_holds_every_word(name):
    words = {word for lines in WHOLE.values() for line in lines for word in line.text.split()}
    assert {word for line in WHOLE[name] for word in line.text.split()} == words


@pytest.mark.parametrize(("name", "_count"), SETS)
def test_every_text_fits_the_encoder_frames(data, name, _count, assert_fits_ctc):
    assert_fits_ctc(data / name)


@pytest.mark.parametrize("name", ["adapt_test", "new_test"])
def test_every_voice_says_the_same_in_another_process(data, name):
    for line in WHOLE[name]:
        if line.number == 1:
            assert np.array_equal(soundfile.read(locate(data, line), dtype="int16")[0], speak(line))
