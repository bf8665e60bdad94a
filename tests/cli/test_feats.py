"""The command `adaptkit feats`."""

import numpy as np
import pytest
import soundfile

from adaptkit.kaldi import datadir
from adaptkit.kaldi.datadir import DataDir, Utterance


@pytest.fixture
def data(tmp_path):
    """Two utterances of one second."""
    for name in ("bob-1", "bob-2"):
        soundfile.write(tmp_path / f"{name}.wav", np.random.default_rng(0).normal(0, 0.1, 16000), 16000)
    recordings = {name: f"{tmp_path}/{name}.wav" for name in ("bob-1", "bob-2")}
    made = DataDir(tmp_path / "data", tuple(Utterance(n, "bob", n, "YES") for n in recordings), recordings)
    datadir.write(made)
    return str(made.path)


def test_features_and_statistics_are_written_and_the_set_is_summed_up(adaptkit, data, tmp_path):
    out, stats = str(tmp_path / "dump"), tmp_path / "stats.npz"
    result = adaptkit("feats", data, out, "--nj", 2, "--num-bins", 40, "--cmvn", stats)
    assert result.stdout == f"{out}: 2 utterances, 0.00 hours, 40 bins\n"
    assert len(datadir.read(tmp_path / "dump").feats) == 2
    assert np.load(stats)["count"] == 2 * 98


def test_another_rate_is_the_rate_of_the_features(adaptkit, data, tmp_path):
    adaptkit("feats", data, tmp_path / "dump", "--rate", 8000, "--num-bins", 40)
    assert '"rate_hz": 8000' in (tmp_path / "dump" / "feats.json").read_text()
    assert datadir.read(tmp_path / "dump").duration_sec["bob-1"] == 1.0
