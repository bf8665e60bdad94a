"""How long an utterance is, whichever table or recording says it."""

from dataclasses import replace

import numpy as np
import pytest

from adaptkit.errors import DataError
from adaptkit.kaldi import datadir
from adaptkit.kaldi.datadir import Utterance
from adaptkit.kaldi.durations import measure, measure_all, read_durations

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


def test_durations_of_all_are_those_of_each(segmented):
    segmented.edit("segments", b"anna 1.000 2.000", b"anna 1.5 -1")
    segmented.edit("segments", b"bert 1.000 2.000", b"bert 1.0 -1")
    segmented.write("utt2dur", "bert-2 7.5\n")
    data = datadir.read(segmented.path)
    seconds = measure_all(data, np.array([2.25, np.nan]))
    lengths = {"anna": 2.25}
    assert seconds.tolist() == [measure(u, data.duration_sec, lengths.get) for u in data.utterances]
    assert seconds.tolist() == [1.0, 0.75, 1.0, 7.5]
    assert np.isnan(measure_all(replace(data, duration_sec=None), np.array([2.25, np.nan]))).tolist() == [
        *(False, False, False, True)
    ]


def test_only_recordings_of_utterances_without_an_end_are_opened(segmented):
    segmented.edit("wav.scp", b"anna ", b"anna nowhere/")
    assert read_durations(datadir.read(segmented.path)).tolist() == [1.0] * 4
    segmented.edit("segments", b"anna 1.000 2.000", b"anna 1.5 -1")
    with pytest.raises(DataError, match="nowhere"):
        read_durations(datadir.read(segmented.path))
