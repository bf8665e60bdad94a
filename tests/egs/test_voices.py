"""egs/voices/local/prepare.py: who says what, and that all of it can be said again."""

import random
import runpy
from pathlib import Path

import espeakng_loader
import numpy as np
import pytest
import soundfile

from adaptkit.corpora.espeak import locate, synthesise, write_script

EGS = Path(__file__).parents[2] / "egs"
SCRIPT = EGS / "voices" / "local" / "prepare.py"
RECIPE = runpy.run_path(str(SCRIPT))
WHOLE = write_script({**RECIPE["SETS"], **RECIPE["MANY_SETS"]}, per_speaker=100)
VOICES = {"base": 14, "adapt": 32, "new": 8, "many": 128}
PARTS = ("train", "valid", "test")
SETS = [*((f"{kind}_{part}", count) for kind, count in VOICES.items() for part in PARTS), ("enrol_train", 8)]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """One utterance of every voice in every set, spoken in two jobs."""
    folder = tmp_path_factory.mktemp("voices") / "data"
    RECIPE["main"](folder, nj=2, per_speaker=1, many=True)
    return folder


def speakers_of(name):
    return {line.voice.speaker for line in WHOLE[name]}


def test_no_sentence_is_spoken_twice():
    texts = [line.text for line in {line.utt_id: line for lines in WHOLE.values() for line in lines}.values()]
    assert len(texts) == len(set(texts))


def test_no_sentence_of_a_test_set_is_in_a_training_set():
    texts = {part: {line.text for name in WHOLE if part in name for line in WHOLE[name]} for part in PARTS}
    assert not texts["test"] & (texts["train"] | texts["valid"])


@pytest.mark.parametrize(("name", "count"), SETS)
def test_every_set_has_all_voices_of_its_kind_equally_often(name, count):
    speakers = [line.voice.speaker for line in WHOLE[name]]
    assert len(set(speakers)) == count
    assert {speakers.count(speaker) for speaker in speakers} == {len(speakers) // count}


def test_a_speaker_is_of_one_kind_only():
    assert len(set().union(*(speakers_of(f"{kind}_test") for kind in VOICES))) == 14 + 128 + 8
    assert speakers_of("adapt_test") < speakers_of("many_test")


def test_no_two_speakers_have_the_same_voice():
    voices = {line.voice for lines in WHOLE.values() for line in lines}
    assert len({(v.espeak, v.wpm, v.pitch, v.played_hz, v.is_whispered) for v in voices}) == 14 + 128 + 8


def test_the_sets_of_many_voices_change_no_other():
    assert write_script(RECIPE["SETS"], per_speaker=100).items() <= WHOLE.items()


@pytest.mark.parametrize("part", PARTS)
def test_a_voice_says_the_same_among_32_and_among_128(part):
    among_128 = [line for line in WHOLE[f"many_{part}"] if line.voice in RECIPE["UNUSUAL"]]
    assert among_128 == [line for line in WHOLE[f"adapt_{part}"] if line.number <= len(among_128) // 32]


def test_enrolment_begins_with_what_a_new_voice_trains_on():
    assert set(WHOLE["new_train"]) < set(WHOLE["enrol_train"])


def test_no_voice_breathes_since_that_would_be_other_bytes_each_time():
    variants = Path(espeakng_loader.get_data_path()) / "voices" / "!v"
    breathing = {path.name for path in variants.iterdir() if "breath" in path.read_text(errors="replace")}
    assert "whisper" in breathing
    assert not breathing & {line.voice.espeak.partition("+")[2] for line in WHOLE["many_test"]}


def test_the_list_of_sixteen_is_drawn_at_random():
    drawn = random.Random(0).sample(sorted(speakers_of("many_train")), 16)
    assert (SCRIPT.parents[1] / "lists" / "random_16.txt").read_text().split() == sorted(drawn)


def test_the_base_sets_are_those_of_mini():
    mini = write_script(runpy.run_path(str(EGS / "mini" / "local" / "prepare.py"))["SETS"], per_speaker=100)
    for name in ("base_train", "base_valid", "base_test"):
        assert WHOLE[name] == mini[name]


@pytest.mark.parametrize("name", ["base_train", "adapt_train", "new_train", "many_train"])
def test_training_holds_every_word(name):
    words = {word for lines in WHOLE.values() for line in lines for word in line.text.split()}
    assert {word for line in WHOLE[name] for word in line.text.split()} == words


@pytest.mark.slow
@pytest.mark.parametrize(("name", "_count"), SETS)
def test_every_text_fits_the_encoder_frames(data, name, _count, assert_fits_ctc):
    assert_fits_ctc(data / name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["many_test", "new_test"])
def test_every_voice_says_the_same_in_another_process(data, name):
    for line in WHOLE[name]:
        if line.number == 1:
            assert np.array_equal(soundfile.read(locate(data, line), dtype="int16")[0], synthesise(line))
