"""Levels of plain WAV files are those that libsndfile decodes."""

import numpy as np
import pytest
import soundfile

from adaptkit.kaldi import levels
from adaptkit.kaldi.levels import measure_levels

SPANS = [(0.0, None), (0.01, 0.02), (0.02, 0.02), (0.03, 9.0), (9.0, None)]


@pytest.mark.parametrize("chunk", [1 << 20, 100])
def test_peaks_do_not_depend_on_the_format(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(levels, "_CHUNK_SAMPLES", chunk)
    samples = np.random.default_rng(0).integers(-(2**15), 2**15, 801, dtype=np.int16)
    samples[400] = -(2**15)
    for name in ("a.wav", "a.flac"):
        soundfile.write(tmp_path / name, samples, 16000, subtype="PCM_16")
    plain, decoded = (measure_levels(str(tmp_path / name), SPANS) for name in ("a.wav", "a.flac"))
    assert plain.peaks == decoded.peaks
    assert plain.peaks[0] == 1.0
    assert plain.peaks[2] == plain.peaks[4] == 0.0


def test_channels_of_a_plain_file_are_counted(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros((50, 2)), 16000, subtype="PCM_16")
    found = measure_levels(str(tmp_path / "a.wav"), SPANS)
    assert (found.recording.num_channels, found.peaks) == (2, (0.0,) * 5)
