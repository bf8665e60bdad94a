"""egs/fsdd: the committed lists, and the strings that prepare.py joins by them."""

import os
import random
import runpy
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from adaptkit.errors import DataError
from adaptkit.kaldi import datadir
from adaptkit.kaldi.audio import read_audio
from adaptkit.kaldi.validate import find_problems

ROOT = Path(__file__).parents[2]
REAL = Path(os.environ.get("ADAPTKIT_DATA", ROOT.parent / "shared" / "data")) / "fsdd"
NOISE = REAL.with_name("noise")
LISTS = ROOT / "egs" / "fsdd" / "lists"
SETS = ("train", "valid", "test")
recipe = runpy.run_path(str(ROOT / "egs" / "fsdd" / "local" / "prepare.py"))
make_lists = runpy.run_path(str(ROOT / "egs" / "fsdd" / "local" / "make_lists.py"))["main"]
STRINGS = {name: recipe["read_list"](LISTS / f"{name}.txt") for name in SETS}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """What is made of the real corpus by every eighth line of the lists, with noise where there is some."""
    data, lists = tmp_path_factory.mktemp("fsdd"), tmp_path_factory.mktemp("lists")
    for name in SETS:
        lines = (LISTS / f"{name}.txt").read_text().splitlines(keepends=True)
        (lists / f"{name}.txt").write_text("".join(lines[::8]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(recipe["main"].__globals__, "LISTS", lists)
        recipe["main"](REAL, data, NOISE if NOISE.is_dir() else None)
    return data


def uses(name):
    return Counter(file for string in STRINGS[name] for file in string.files)


def tone(num_samples, amplitude=0.1):
    return amplitude * torch.sin(torch.arange(num_samples) / 3)


def test_the_lists_are_what_make_lists_draws(tmp_path):
    make_lists(tmp_path)
    for name in SETS:
        assert (tmp_path / f"{name}.txt").read_text() == (LISTS / f"{name}.txt").read_text()


def test_two_speakers_drawn_at_random_are_new_and_the_others_known():
    new, known = ((LISTS / f"{name}_speakers.txt").read_text().split() for name in ("new", "known"))
    speakers = sorted({string.speaker for string in STRINGS["train"]})
    assert new == sorted(random.Random(0).sample(speakers, 2))
    assert known == [speaker for speaker in speakers if speaker not in new]


def test_no_recording_is_in_two_sets():
    train, valid, test = (set(uses(name)) for name in SETS)
    assert len(train | valid | test) == len(train) + len(valid) + len(test)


def test_the_test_set_is_the_official_one():
    indices = {file.rpartition("_")[2] for file in uses("test")}
    assert indices == {f"{index}.wav" for index in range(5)}
    assert len(uses("test")) == 6 * 10 * 5


@pytest.mark.parametrize(
    ("name", "recordings", "times"), [("train", 2400, 2), ("valid", 300, 2), ("test", 300, 5)]
)
def test_every_recording_of_a_set_is_used_equally_often(name, recordings, times):
    assert list(uses(name).values()) == [times] * recordings


@pytest.mark.parametrize("name", SETS)
def test_a_string_is_three_to_seven_different_recordings_with_a_pause_around_each(name):
    for string in STRINGS[name]:
        assert 3 <= len(set(string.recordings)) == len(string.recordings) <= 7
        assert len(string.pauses_sec) == len(string.recordings) + 1


def test_each_speaker_has_about_fifty_test_strings():
    counts = Counter(string.speaker for string in STRINGS["test"])
    assert len(counts) == 6
    assert all(45 <= count <= 55 for count in counts.values())


def test_the_text_says_the_digits():
    string = recipe["DigitString"]("theo-test-001", ("0_3", "9_4", "4_0"), (0.1, 0.1, 0.1, 0.1))
    assert string.text == "ZERO NINE FOUR"
    assert string.files[1] == "recordings/9_theo_4.wav"


def test_a_string_is_as_long_as_its_digits_and_pauses_together():
    joined = recipe["join"]([tone(3000), tone(2500)], [0.1, 0.25, 0.05], seed=1)
    assert len(joined) == 800 + 3000 + 2000 + 2500 + 400


def test_digits_lose_their_mean_and_keep_their_loudness():
    joined = recipe["join"]([tone(3000) + 0.01], [0.1, 0.1], seed=1)
    torch.testing.assert_close(joined[800:3800], tone(3000) - tone(3000).mean())


def test_a_pause_is_as_loud_as_the_quietest_frames():
    speech = torch.cat([tone(6400), tone(1600, amplitude=0.001)])
    pause = recipe["join"]([speech], [1.0, 0.0], seed=1)[:8000]
    assert pause.std() == pytest.approx(0.001 / np.sqrt(2), rel=0.1)


def test_a_string_is_the_same_every_time():
    first, again = (recipe["join"]([tone(3000)], [0.1, 0.1], seed=7) for _ in range(2))
    assert torch.equal(first, again)


def test_a_corpus_that_lacks_recordings_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(DataError, match=r"3000 recordings missing: recordings/0_george_0\.wav"):
        recipe["main"](tmp_path, tmp_path / "data")
    assert not (tmp_path / "data").exists()


@pytest.mark.slow
@pytest.mark.corpora
@pytest.mark.skipif(not REAL.is_dir(), reason="no FSDD below ADAPTKIT_DATA or ../shared/data")
def test_the_real_corpus_becomes_strings_of_the_length_of_their_parts(prepared):
    assert [len(STRINGS[name]) for name in SETS] == [947, 120, 310]
    assert [len(datadir.read(prepared / name).utterances) for name in SETS] == [119, 15, 39]
    string = STRINGS["test"][0]
    num_samples = sum(soundfile.info(REAL / file).frames for file in string.files)
    num_samples += sum(round(sec * 8000) for sec in string.pauses_sec)
    assert len(read_audio(str(prepared / "audio" / f"{string.utt_id}.wav"), rate_hz=16000)) == 2 * num_samples


@pytest.mark.slow
@pytest.mark.corpora
@pytest.mark.skipif(not (REAL.is_dir() and NOISE.is_dir()), reason="no FSDD and noise below ADAPTKIT_DATA")
def test_noise_makes_noisy_test_sets_of_the_same_strings(prepared):
    clean = datadir.read(prepared / "test").utterances
    for snr_db in (20, 10, 5, 0):
        assert datadir.read(prepared / f"test_{snr_db}db").utterances == clean
        assert find_problems(prepared / f"test_{snr_db}db") == []
