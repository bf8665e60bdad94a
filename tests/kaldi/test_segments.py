"""Segments of one recording: the same samples whatever else is read, and no more read than needed."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from adaptkit.errors import DataError
from adaptkit.kaldi import audio
from adaptkit.kaldi.audio import read_audio, read_segments

SPANS = [(0.1, 0.9), (0.5, 1.5), (0.5, 0.6), (1.4999, 1.7), (2.9, None)]


def bytes_read():
    return int(re.search(r"rchar: (\d+)", Path("/proc/self/io").read_text())[1])


@pytest.mark.parametrize(
    ("name", "layout"),
    [("a.wav", {}), ("a.flac", {}), ("a.mp3", {}), ("a.ogg", {}), ("a.wav", {"subtype": "GSM610"})],
)
@pytest.mark.parametrize("rate_hz", [16000, 44100])
def test_segments_read_together_are_those_read_alone(tmp_path, monkeypatch, name, layout, rate_hz):
    monkeypatch.setattr(audio, "_CHUNK_SAMPLES", 1000)
    noise = 0.1 * np.random.default_rng(0).normal(size=3 * rate_hz)
    soundfile.write(tmp_path / name, noise, rate_hz, **layout)
    location = str(tmp_path / name)
    together = list(read_segments(location, SPANS, rate_hz=16000))
    for found, (start_sec, end_sec) in zip(together, SPANS, strict=True):
        monkeypatch.setattr(audio, "_CHUNK_SAMPLES", 1 << 20)
        alone = read_audio(location, rate_hz=16000, start_sec=start_sec, end_sec=end_sec)
        assert torch.equal(found, alone)


def test_a_segment_that_cannot_be_read_leaves_the_others(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.full(16000, 0.5), 16000)
    first, second, third = read_segments(f"{tmp_path}/a.wav", [(0, 0.5), (0.2, 1.5), (0.5, 1)], rate_hz=16000)
    assert (len(first), len(third)) == (8000, 8000)
    assert isinstance(second, DataError)


@pytest.fixture
def two_hours(tmp_path):
    """A recording of two hours at 8 kHz that takes no room on the disk."""
    soundfile.write(tmp_path / "long.wav", np.zeros(1), 8000, subtype="PCM_16")
    content = bytearray((tmp_path / "long.wav").read_bytes()[:44])
    size = 2 * 3600 * 8000 * 2
    content[4:8], content[40:44] = (36 + size).to_bytes(4, "little"), size.to_bytes(4, "little")
    (tmp_path / "long.wav").write_bytes(content)
    os.truncate(tmp_path / "long.wav", 44 + size)
    return str(tmp_path / "long.wav")


def test_distant_segments_read_nothing_of_what_lies_between(two_hours):
    before = bytes_read()
    segments = list(read_segments(two_hours, [(10, 12), (7150, 7152)], rate_hz=16000))
    assert [len(samples) for samples in segments] == [32000, 32000]
    assert bytes_read() - before < 200_000
