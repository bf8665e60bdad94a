"""egs/template/local/prepare.py, which people change, on recordings laid out as it expects them."""

import runpy
from pathlib import Path

import numpy as np
import pytest
import soundfile

from adaptkit import config, experiment
from adaptkit.errors import DataError
from adaptkit.kaldi import datadir
from adaptkit.kaldi.validate import find_problems

FOLDER = Path(__file__).parents[2] / "egs/template"
prepare = runpy.run_path(str(FOLDER / "local/prepare.py"))["main"]


@pytest.fixture
def corpus(tmp_path):
    """Half a second of a tone by each of two speakers in each set."""
    for name in ("train", "valid", "test"):
        for speaker in ("anna", "bert"):
            folder = tmp_path / "corpus" / name / speaker
            folder.mkdir(parents=True)
            soundfile.write(folder / "one.wav", 0.1 * np.sin(np.arange(8000) / 9), 16000)
            (folder / "one.txt").write_text("Turn it\n off\n")
    return tmp_path / "corpus"


def test_recordings_become_valid_data_directories(corpus, tmp_path):
    prepare(corpus, tmp_path / "data")

    assert [find_problems(tmp_path / "data" / name) for name in ("train", "valid", "test")] == [[], [], []]
    utterances = datadir.read(tmp_path / "data/test").utterances
    assert [(u.utt_id, u.speaker, u.text) for u in utterances] == [
        ("anna-one", "anna", "TURN IT OFF"),
        ("bert-one", "bert", "TURN IT OFF"),
    ]


def test_names_with_spaces_and_capital_endings_are_taken(corpus, tmp_path):
    folder = (corpus / "train/anna").rename(corpus / "train/anna b")
    (folder / "one.wav").rename(folder / "take 1.WAV")
    (folder / "one.txt").rename(folder / "take 1.txt")

    prepare(corpus, tmp_path / "data")

    assert find_problems(tmp_path / "data/train") == []
    assert list(datadir.read(tmp_path / "data/train").utterances.ids) == ["anna_b-take_1", "bert-one"]


def test_a_set_without_recordings_is_refused(corpus, tmp_path):
    for path in (corpus / "valid").glob("*/*.wav"):
        path.unlink()
    with pytest.raises(DataError, match=r"valid: .* <speaker>/<name>\.wav"):
        prepare(corpus, tmp_path / "data")


def test_its_experiment_lacks_a_base_model_alone():
    settings = experiment.load(FOLDER / "conf/template.yaml")
    assert (settings.base.model, settings.base.dir) == (None, Path("base"))
    assert config.dump(settings)["adapters"][0]["kind"] == "residual"
