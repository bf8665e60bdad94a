"""egs/mini/local/prepare.py: who says what, and how it sounds."""

import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from adaptkit.errors import AdaptkitError
from adaptkit.kaldi import datadir

SCRIPT = Path(__file__).parents[2] / "egs" / "mini" / "local" / "prepare.py"
recipe = runpy.run_path(str(SCRIPT))
WHOLE = recipe["script"](per_speaker=100)
SETS = ("base_train", "base_valid", "base_test", "adapt_train", "adapt_valid", "adapt_test")
UNUSUAL = {line.voice.speaker: line for line in WHOLE["adapt_test"]}
ORDINARY = {line.voice.speaker: line for line in WHOLE["base_test"]}
TEXT = "MOVE YELLOW CHAIR NEAR KITCHEN"


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """One utterance of every voice in every set, spoken in two jobs."""
    folder = tmp_path_factory.mktemp("mini") / "data"
    run(folder)
    return folder


def run(folder):
    command = [sys.executable, str(SCRIPT), str(folder), "--nj", "2", "--per-speaker", "1"]
    subprocess.run(command, check=True)


def say(line, text=TEXT):
    return recipe["speak"](replace(line, text=text)).astype(float)


def centre_hz(speech):
    """The mean frequency of a spectrum, weighted by magnitude."""
    spectrum = np.abs(np.fft.rfft(speech))
    return np.sum(np.fft.rfftfreq(len(speech), 1 / 16000) * spectrum) / np.sum(spectrum)


def periodicity(speech):
    """Give the mean over 40 ms stretches of the largest autocorrelation at periods of 80 to 400 Hz."""
    frames = np.hanning(640) * speech[: len(speech) // 640 * 640].reshape(-1, 640)
    correlation = np.fft.irfft(np.abs(np.fft.rfft(frames, 1280)) ** 2)
    return np.mean(correlation[:, 40:200].max(1) / correlation[:, 0])


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


def test_a_shorter_script_is_a_part_of_the_whole():
    for name, lines in recipe["script"](per_speaker=3).items():
        assert set(lines) < set(WHOLE[name])


@pytest.mark.parametrize("speaker", ["alan", "hope", "croak", "whisper"])
def test_an_utterance_does_not_depend_on_those_before(speaker):
    line = {**ORDINARY, **UNUSUAL}[speaker]
    first = say(line)
    say(ORDINARY["carl"], "CALL ONE TWO THREE FOUR")
    assert np.array_equal(say(line), first)


def test_a_voice_does_not_say_a_sentence_twice_alike():
    line = ORDINARY["alan"]
    assert len(say(line)) != len(say(replace(line, number=line.number + 1)))


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


def test_the_child_is_brighter_and_the_croak_darker_than_the_same_voice_at_ordinary_size():
    for speaker, sign in (("child", 1), ("croak", -1)):
        line = UNUSUAL[speaker]
        ordinary = replace(line, voice=replace(line.voice, played_hz=22050))
        assert sign * (centre_hz(say(line)) - centre_hz(say(ordinary))) > 100


def test_a_whisper_has_no_pitch():
    line = UNUSUAL["whisper"]
    voiced = replace(line, voice=replace(line.voice, is_whispered=False))
    assert periodicity(say(line)) < 0.3 < 0.5 < periodicity(say(voiced))


def test_every_text_fits_the_frames_of_ctc_after_fourfold_subsampling(data):
    for name in SETS:
        read = datadir.read(data / name)
        for u in read.utterances:
            num_frames = (read.duration_sec[u.utt_id] - 0.015) / 0.01  # windows of 25 ms
            doubled = sum(a == b for a, b in zip(u.text, u.text[1:], strict=False))
            assert len(u.text) + doubled <= ((num_frames - 1) // 2 - 1) // 2


def test_a_voice_that_espeak_lacks_is_named():
    line = ORDINARY["alan"]
    with pytest.raises(AdaptkitError, match="no voice 'en-zz'"):
        say(replace(line, voice=replace(line.voice, espeak="en-zz")))


@pytest.mark.parametrize("name", SETS)
def test_the_data_directory_holds_the_script(data, name):
    told = {line.utt_id: line for line in recipe["script"](per_speaker=1)[name]}
    read = datadir.read(data / name)
    assert {u.utt_id: (u.speaker, u.text) for u in read.utterances} == {
        utt_id: (line.voice.speaker, line.text) for utt_id, line in told.items()
    }
    assert all(u.utt_id.startswith(f"{u.speaker}-") and u.task == u.speaker for u in read.utterances)


def test_the_files_hold_what_another_process_speaks(data):
    told = recipe["script"](per_speaker=1)["adapt_test"]
    recordings = datadir.read(data / "adapt_test").recordings
    for line in told:
        heard, rate_hz = soundfile.read(recordings[line.utt_id], dtype="int16")
        assert rate_hz == 16000
        assert np.array_equal(heard, recipe["speak"](line))


def test_a_second_run_mends_what_is_missing_and_touches_nothing_else(data):
    lost = data / "wav" / "slow" / "slow-test001.wav"
    spoken = lost.read_bytes()
    times = {path: path.stat().st_mtime_ns for path in data.rglob("*") if path.is_file() and path != lost}
    lost.unlink()
    run(data)
    assert lost.read_bytes() == spoken
    assert {path: path.stat().st_mtime_ns for path in times} == times
