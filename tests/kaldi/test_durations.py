"""How long an utterance is, whichever table or recording says it."""

from dataclasses import replace

import pytest

from adaptkit.kaldi import datadir
from adaptkit.kaldi.datadir import Utterance
from adaptkit.kaldi.durations import measure, measure_all

WHOLE = Utterance("a-1", "a", "call", "YES")


def unasked(name):
    raise AssertionError(f"{name} was measured")


def test_times_of_a_segment_go_before_everything_else():
    segment = replace(WHOLE, start_sec=0.5, end_sec=2.0)
    assert measure(segment, {"a-1": 9.0}, unasked) == 1.5


def test_a_segment_without_an_end_goes_to_that_of_its_recording():
    assert measure(replace(WHOLE, start_sec=0.5), {"a-1": 9.0}, {"call": 3.0}.get) == 2.5


@pytest.mark.parametrize(("stated", "expected"), [({"a-1": 9.0}, 9.0), ({}, None)])
def test_a_recording_that_cannot_be_measured_is_as_long_as_utt2dur_says(stated, expected):
    assert measure(WHOLE, stated, {}.get) == expected


def test_only_recordings_of_utterances_without_an_end_are_measured(segmented):
    data = datadir.read(segmented.path)
    assert measure_all(data, unasked) == dict.fromkeys(("anna-1", "anna-2", "bert-1", "bert-2"), 1.0)
