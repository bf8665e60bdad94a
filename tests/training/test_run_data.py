"""What the data of a training must be."""

import shutil
from dataclasses import replace

import pytest

from adaptkit.errors import DataError
from adaptkit.features import extract
from adaptkit.features.fbank import FbankOptions
from adaptkit.kaldi import datadir
from adaptkit.kaldi.tables import read_table, write_table
from adaptkit.training import run as training_run


@pytest.fixture
def with_texts(settings, corpus, tmp_path):
    """The experiment, with some texts of the training set changed."""

    def make(**texts):
        data = shutil.copytree(corpus / "dump/train", tmp_path / "train")
        named = {name.replace("_", "-"): text for name, text in texts.items()}
        write_table(data / "text", {**read_table(data / "text"), **named})
        made = settings(max_epochs=1)
        return made.model_copy(update={"data": made.data.model_copy(update={"train": data})})

    return make


def test_characters_outside_the_token_list_are_refused_with_their_utterances(with_texts, tmp_path):
    expected = "2 utterances with 'X', 'Y', not among the base model's 7 tokens: spk1-00, spk2-01"
    with pytest.raises(DataError, match=expected):
        training_run.train_adapters(with_texts(spk1_00="AX", spk2_01="Y"), tmp_path / "exp", device="cpu")


def test_more_than_5_percent_too_short_utterances_are_refused(with_texts, tmp_path):
    expected = r"1 of 18 utterances are too short for their text: spk1-00 \(\d+ .*, 40 tokens, 39 repeats\)"
    with pytest.raises(DataError, match=expected):
        training_run.train_adapters(with_texts(spk1_00="A" * 40), tmp_path / "exp", device="cpu")


def test_a_few_too_short_utterances_are_left_out_and_said(corpus, base, tmp_path, caplog):
    data = datadir.read(corpus / "dump/train")
    twice = tuple(replace(u, utt_id=f"{u.utt_id}x", recording=f"{u.utt_id}x") for u in data.utterances)
    recordings = {f"{name}x": location for name, location in data.recordings.items()}
    both = replace(
        data, path=tmp_path / "data", utterances=(*data.utterances, *twice), feats=None, duration_sec=None
    )
    datadir.write(replace(both, recordings={**data.recordings, **recordings}))
    extract.extract(tmp_path / "data", tmp_path / "dump", FbankOptions(rate_hz=8000, num_bins=20))
    write_table(tmp_path / "dump/text", {**read_table(tmp_path / "dump/text"), "spk1-00": "A" * 40})
    assert len(training_run.read_set(tmp_path / "dump", base)) == 35
    assert "1 of 36 utterances are too short for their text: spk1-00" in caplog.text
    assert "they are left out" in caplog.text
