"""A corpus as a policy meets it: lengths from wherever they are known."""

import dataclasses
import shutil

import pytest
import torch

from adaptkit.augment.corpus import read_corpus
from adaptkit.errors import DataError
from adaptkit.features.archive import load_feats
from adaptkit.features.fbank import FbankOptions
from adaptkit.kaldi import datadir


@pytest.fixture
def dump(corpus, tmp_path):
    """The tables of a set with features, to be changed."""
    tables = shutil.ignore_patterns("*.ark")
    return shutil.copytree(corpus / "dump" / "train", tmp_path / "dump", ignore=tables)


def test_lengths_of_features_that_kaldi_made_are_those_of_their_table(dump, forget_records):
    forget_records(dump)
    table = dump / "utt2num_frames"
    table.write_text("".join(f"{line.split()[0]} 7\n" for line in table.read_text().splitlines()))

    assert read_corpus(dump).num_frames.tolist() == [7] * 18


def test_a_stale_table_does_not_hide_the_lengths_that_archives_record(dump):
    before = read_corpus(dump).num_frames
    (dump / "utt2num_frames").write_text("spk1-00 1\n")

    assert torch.equal(read_corpus(dump).num_frames, before)


def test_lengths_without_a_table_are_those_of_the_features(dump, forget_records):
    before = read_corpus(dump)
    forget_records(dump)
    (dump / "utt2num_frames").unlink()

    assert torch.equal(read_corpus(dump).num_frames, before.num_frames)


def test_lengths_without_features_are_those_that_features_would_have(corpus, tmp_path):
    made = read_corpus(corpus / "dump" / "train").num_frames  # at 8 kHz
    found = read_corpus(corpus / "data" / "train")

    assert found.data.feats is None
    assert (found.num_frames - made).abs().max() <= 1
    assert found.num_bins == 80


def test_durations_stand_for_recordings_that_are_not_there(corpus, tmp_path):
    data = datadir.read(corpus / "data" / "train")
    durations = {utterance.utt_id: 1.0 for utterance in data.utterances}
    gone = {name: "nowhere.wav" for name in data.recordings}
    changed = dataclasses.replace(data, path=tmp_path, recordings=gone, duration_sec=durations)
    datadir.write(changed)

    assert set(read_corpus(tmp_path).num_frames.tolist()) == {FbankOptions().count_frames(16000)}


def test_features_of_kaldis_own_making_have_frames_of_ten_ms(dump):
    (dump / "feats.json").unlink()

    found = read_corpus(dump)

    assert (found.num_bins, found.options, found.frame_sec) == (20, None, 0.01)


def test_features_are_made_where_there_are_none(corpus):
    found = read_corpus(corpus / "data" / "train")
    utterance = found.median()

    feats = found.load(utterance)

    assert len(feats) == found.num_frames.median()
    assert feats.shape[1] == 80


def test_features_are_loaded_where_they_are(dump):
    found = read_corpus(dump)
    utterance = found.median()

    assert torch.equal(found.load(utterance), load_feats(found.data.feats[utterance.utt_id]))


def test_a_missing_directory_is_refused(tmp_path):
    with pytest.raises(DataError, match="no such data directory"):
        read_corpus(tmp_path / "nowhere")


def test_a_set_with_some_features_is_refused(dump):
    lines = (dump / "feats.scp").read_text().splitlines(keepends=True)
    (dump / "feats.scp").write_text("".join(lines[1:]))

    with pytest.raises(DataError, match="feats.scp: missing spk1-00; 'adaptkit feats"):
        read_corpus(dump)


def test_a_broken_table_of_lengths_is_refused(dump, forget_records):
    forget_records(dump)
    (dump / "utt2num_frames").write_text("spk1-00 many\n")

    with pytest.raises(DataError, match="utt2num_frames: no number for spk1-00"):
        read_corpus(dump)
