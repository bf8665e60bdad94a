"""A small data directory to spoil."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from adaptkit.kaldi import datadir
from adaptkit.kaldi.datadir import DataDir, Utterance
from adaptkit.kaldi.tables import read_table

TEXTS = {"anna-1": "ONE TWO", "anna-2": "THREE", "bert-1": "FOUR FIVE", "bert-2": "SIX"}


class Folder:
    """A data directory whose files a test can spoil."""

    def __init__(self, path):
        self.path = path

    def edit(self, name, before, after):
        """Replace some bytes of a table, which must be there."""
        content = (self.path / name).read_bytes()
        assert before in content
        (self.path / name).write_bytes(content.replace(before, after, 1))

    def write(self, name, text):
        (self.path / name).write_text(text)

    def recording(self, name):
        """The file of a recording."""
        return Path(read_table(self.path / "wav.scp")[name])

    def content(self):
        """Every file's bytes, to see that nothing changed."""
        return {str(file): file.read_bytes() for file in self.path.rglob("*") if file.is_file()}


def _write_tone(path, seconds):
    soundfile.write(path, 0.1 * np.sin(np.arange(round(8000 * seconds)) / 4), 8000)
    return str(path)


@pytest.fixture
def folder(tmp_path):
    """Four utterances of a second, two each of anna and bert."""
    recordings = {utt_id: _write_tone(tmp_path / f"{utt_id}.wav", 1.0) for utt_id in TEXTS}
    utterances = tuple(Utterance(utt_id, utt_id[:4], utt_id, text) for utt_id, text in TEXTS.items())
    datadir.write(DataDir(tmp_path / "data", utterances, recordings))
    return Folder(tmp_path / "data")


@pytest.fixture
def segmented(tmp_path):
    """The same four utterances, as two segments of a second in each of two recordings."""
    recordings = {name: _write_tone(tmp_path / f"{name}.wav", 2.0) for name in ("anna", "bert")}
    utterances = tuple(
        Utterance(utt_id, utt_id[:4], utt_id[:4], text, float(number % 2), number % 2 + 1.0)
        for number, (utt_id, text) in enumerate(TEXTS.items())
    )
    datadir.write(DataDir(tmp_path / "data", utterances, recordings))
    return Folder(tmp_path / "data")
