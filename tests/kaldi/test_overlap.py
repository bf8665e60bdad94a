"""Warnings of what a training set has in common with other sets."""

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from adaptkit.kaldi import datadir
from adaptkit.kaldi.datadir import DataDir, Utterance
from adaptkit.kaldi.overlap import find_shared, read_texts, warn_of_common, warn_of_tests


def make(name, texts, recording="{}.wav"):
    """Return a directory of an utterance for each text."""
    utterances = tuple(Utterance(f"{name}-{n}", name, f"{name}-{n}", text) for n, text in enumerate(texts))
    return DataDir(Path(name), utterances, {u.recording: recording.format(u.recording) for u in utterances})


@pytest.fixture
def messages(caplog):
    """Return the messages of comparing two sets, each with its level."""
    caplog.set_level(logging.INFO)

    def run(train, data):
        caplog.clear()
        warn_of_common(train, data)
        return [(record.levelname, record.getMessage()) for record in caplog.records]

    return run


def test_sets_with_nothing_in_common_give_no_message(messages):
    assert messages(make("train", "ABC"), make("test", "DEF")) == []
    assert messages(make("train", ["A"]), make("test", ["", ""])) == []


def test_sentences_in_common_are_counted_with_examples_and_a_remedy(messages):
    found = messages(make("train", "ABC"), make("test", "ABXYZ"))
    assert found == [
        (
            "WARNING",
            "test: the sentences of 2 of 5 utterances are in the training set train: 'A' (test-0), "
            "'B' (test-1); 'adaptkit data split --disjoint-texts' makes sets that share none",
        )
    ]


def test_a_closed_set_of_sentences_is_a_short_line(messages):
    found = messages(make("train", "ABC"), make("test", "ABCABCABCA"))
    assert found == [("INFO", "test: the sentences of 10 of 10 utterances are in train too")]


def test_utterances_are_the_same_with_times_rounded_to_milliseconds():
    sets = [
        DataDir(Path(name), (Utterance("a", "a", "call", "A", *times),), {"call": "call.wav"})
        for name, *times in (("train", 0.123, 1.501), ("test", 0.12345, 1.50062))
    ]
    assert find_shared(*sets) == ["a"]


def test_utterances_in_common_are_always_warned_of(messages):
    train = make("train", "ABC")
    level, message = messages(train, replace(train, path=Path("test")))[0]
    assert level == "WARNING"
    assert message.startswith(
        "test: 3 of 3 utterances are in the training set train: train-0, train-1, train-2"
    )


def test_utterances_are_the_same_by_recording_and_times_whatever_their_ids():
    long = {"call": str(Path.cwd() / "call.wav")}
    train = DataDir(Path("train"), (Utterance("a", "s", "call", "A", 0.0, 1.0),), long)
    same = Utterance("x", "t", "r", "B", 0.0, 1.0)
    other = replace(same, utt_id="y", start_sec=1.0, end_sec=2.0)
    test = DataDir(Path("test"), (same, other), {"r": "./call.wav"})
    assert find_shared(train, test) == ["x"]


def test_test_sets_that_cannot_be_read_are_said(caplog, tmp_path):
    data = make("test", "AB")
    datadir.write(replace(data, path=tmp_path / "test"))
    warn_of_tests(make("train", "BC"), [tmp_path / "none", tmp_path / "test"])
    first, second = (record.getMessage() for record in caplog.records)
    assert "is not compared with the training set" in first
    assert "the sentences of 1 of 2 utterances are in the training set train: 'B' (test-1)" in second
    assert (read_texts(tmp_path / "test"), read_texts(tmp_path / "none")) == (["A", "B"], [])
