"""Speaking corpora: who says what, how voices sound, and what is written."""

from dataclasses import replace

import numpy as np
import pytest
import soundfile

from adaptkit.corpora.espeak import (
    ORDINARY,
    Line,
    Voice,
    sentences,
    synthesise,
    synthesise_corpus,
    write_script,
)
from adaptkit.errors import AdaptkitError
from adaptkit.kaldi import datadir

VOICES = {voice.speaker: voice for voice in ORDINARY}
CROAK = Voice("croak", "en-us+croak", wpm=157, played_hz=17600)
WHISPER = Voice("whisper", "en-us", wpm=102, played_hz=28000, is_whispered=True)
SETS = {"few_train": ((CROAK, VOICES["alan"]), 3), "few_test": ((CROAK,), 2)}


def line_of(voice, text="MOVE YELLOW CHAIR NEAR KITCHEN"):
    return Line(voice, "test", 1, text)


def say(voice):
    return synthesise(line_of(voice)).astype(float)


def centre_hz(speech):
    """The mean frequency of a spectrum, weighted by magnitude."""
    spectrum = np.abs(np.fft.rfft(speech))
    return np.sum(np.fft.rfftfreq(len(speech), 1 / 16000) * spectrum) / np.sum(spectrum)


def periodicity(speech):
    """Return the mean over 40 ms stretches of the largest autocorrelation at periods of 80 to 400 Hz."""
    frames = np.hanning(640) * speech[: len(speech) // 640 * 640].reshape(-1, 640)
    correlation = np.fft.irfft(np.abs(np.fft.rfft(frames, 1280)) ** 2)
    return np.mean(correlation[:, 40:200].max(1) / correlation[:, 0])


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A corpus of eight utterances, spoken in two jobs."""
    folder = tmp_path_factory.mktemp("spoken") / "data"
    synthesise_corpus(folder, write_script(SETS, per_speaker=100), 2)
    return folder


def test_there_are_as_many_digit_strings_as_commands_and_no_two_alike():
    texts = sentences()
    assert len(set(texts)) == len(texts) == 2 * 8 * 8 * 8 * (1 + 2 * 6)
    assert sum(text.startswith(("CALL ", "DIAL ")) for text in texts) == len(texts) // 2


def test_a_script_hands_out_the_sentences_in_turn():
    script = write_script(SETS, per_speaker=100)
    assert [line.text for lines in script.values() for line in lines] == sentences()[:8]


def test_an_utterance_is_named_by_its_speaker_its_set_and_its_number():
    script = write_script(SETS, per_speaker=2)
    names = [line.utt_id for line in script["few_train"]]
    assert names == ["croak-train001", "croak-train002", "alan-train001", "alan-train002"]


def test_a_shorter_script_is_a_part_of_the_whole():
    whole = write_script(SETS, per_speaker=100)
    for name, lines in write_script(SETS, per_speaker=1).items():
        assert set(lines) < set(whole[name])


@pytest.mark.parametrize("voice", [VOICES["alan"], VOICES["hope"], CROAK, WHISPER], ids=lambda v: v.speaker)
def test_an_utterance_does_not_depend_on_those_before(voice):
    first = say(voice)
    synthesise(line_of(VOICES["carl"], "CALL ONE TWO THREE FOUR"))
    assert np.array_equal(say(voice), first)


def test_a_voice_does_not_say_a_sentence_twice_alike():
    line = line_of(VOICES["alan"])
    assert len(synthesise(line)) != len(synthesise(replace(line, number=2)))


@pytest.mark.parametrize("voice", ORDINARY, ids=lambda voice: voice.speaker)
def test_speech_is_as_loud_as_recordings_are(voice):
    level_db = 10 * np.log10(np.mean((say(voice) / 32768) ** 2))
    assert -33 < level_db < -21


def test_speech_that_would_be_clipped_is_made_quieter():
    peaky = Line(Voice("robot1", "en-us+klatt2", 150, 50, 18500), "test", 4, "MOVE GREEN LAMP NEAR BEDROOM")
    assert np.sum(np.abs(synthesise(peaky)) == 32767) == 1


@pytest.mark.parametrize(("played_hz", "sign"), [(25600, 1), (17600, -1)])
def test_a_smaller_speaker_is_brighter_and_a_bigger_one_darker(played_hz, sign):
    alan = VOICES["alan"]
    assert sign * (centre_hz(say(replace(alan, played_hz=played_hz))) - centre_hz(say(alan))) > 100


def test_a_whisper_has_no_pitch():
    assert periodicity(say(WHISPER)) < 0.3 < 0.5 < periodicity(say(replace(WHISPER, is_whispered=False)))


def test_a_voice_that_espeak_lacks_is_named():
    with pytest.raises(AdaptkitError, match="no voice 'en-zz'"):
        say(Voice("nobody", "en-zz"))


@pytest.mark.slow
@pytest.mark.parametrize("name", SETS)
def test_the_data_directory_holds_the_script(data, name):
    told = {line.utt_id: line for line in write_script(SETS, per_speaker=100)[name]}
    read = datadir.read(data / name)
    assert {u.utt_id: (u.speaker, u.text) for u in read.utterances} == {
        utt_id: (line.voice.speaker, line.text) for utt_id, line in told.items()
    }
    assert all(u.utt_id.startswith(f"{u.speaker}-") and u.task == u.speaker for u in read.utterances)


@pytest.mark.slow
def test_the_files_hold_what_another_process_speaks(data):
    recordings = datadir.read(data / "few_train").recordings
    for line in write_script(SETS, per_speaker=100)["few_train"]:
        heard, rate_hz = soundfile.read(recordings[line.utt_id], dtype="int16")
        assert rate_hz == 16000
        assert np.array_equal(heard, synthesise(line))


@pytest.mark.slow
def test_a_second_run_mends_what_is_missing_and_touches_nothing_else(data):
    lost = data / "wav" / "croak" / "croak-test002.wav"
    spoken = lost.read_bytes()
    times = {path: path.stat().st_mtime_ns for path in data.rglob("*") if path.is_file() and path != lost}
    lost.unlink()
    synthesise_corpus(data, write_script(SETS, per_speaker=100), 1)
    assert lost.read_bytes() == spoken
    assert {path: path.stat().st_mtime_ns for path in times} == times
