"""Archives of features: what is read back, and what is refused as damaged."""

import os
import struct

import kaldiio
import numpy as np
import pytest
import torch

from adaptkit.errors import AdaptkitError, DataError
from adaptkit.features import archive
from adaptkit.features.archive import find_damage, load_feats, refuse_incomplete, write_archive, write_record


def test_features_come_back_from_an_archive_and_an_offset(tmp_path):
    frames = {"a": np.ones((3, 4), np.float32), "b": np.full((2, 4), 5, np.float32)}
    kaldiio.save_ark(str(tmp_path / "x.ark"), frames, scp=str(tmp_path / "x.scp"))
    location = (tmp_path / "x.scp").read_text().splitlines()[1].split()[1]
    assert torch.equal(load_feats(location), torch.full((2, 4), 5.0))


def test_a_place_without_a_matrix_is_refused_and_nothing_is_unpickled(tmp_path):
    (tmp_path / "x.ark").write_bytes(b"PKL" + b"cos\nsystem\n(S'touch run'\ntR.")
    with pytest.raises(DataError, match=r"x\.ark:0: no Kaldi matrix"):
        load_feats(f"{tmp_path}/x.ark:0")


def test_a_missing_archive_is_named():
    with pytest.raises(AdaptkitError, match="nowhere.ark: no such file"):
        load_feats("nowhere.ark:7")


@pytest.mark.parametrize("method", [1, 3, 5])
def test_compressed_matrices_of_kaldi_are_read(tmp_path, method):
    frames = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    kaldiio.save_ark(str(tmp_path / "x.ark"), {"a": frames}, compression_method=method)
    np.testing.assert_allclose(load_feats(f"{tmp_path}/x.ark:2"), frames, atol=0.1)


@pytest.mark.parametrize(
    "head",
    [
        struct.pack("<xi xi", 2**31 - 1, 2**31 - 1),
        struct.pack("<xi xi", -1, 4),
        struct.pack("<xi xi", 0, 4),
        struct.pack("<xi", 3),
    ],
)
def test_a_matrix_that_does_not_fit_its_file_is_refused_before_it_is_read(tmp_path, head):
    (tmp_path / "x.ark").write_bytes(b"a \0BFM " + head)
    with pytest.raises(DataError, match=r"x.ark:2: (truncated|a matrix of|no Kaldi matrix)"):
        load_feats(f"{tmp_path}/x.ark:2")


@pytest.mark.parametrize("offset", ["9" * 23, "9" * 13, "9" * 5000])
def test_an_offset_beyond_any_archive_is_refused(tmp_path, offset):
    kaldiio.save_ark(str(tmp_path / "x.ark"), {"a": np.ones((3, 4), np.float32)})
    with pytest.raises(DataError, match="an offset of|no Kaldi matrix"):
        load_feats(f"{tmp_path}/x.ark:{offset}")


@pytest.mark.parametrize("place", ["pipe", "folder", "a\0b"])
def test_only_regular_files_are_opened(tmp_path, place):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match="FIFO|folder|not a path"):
        load_feats(f"{tmp_path}/{place}")


@pytest.fixture
def ark(tmp_path):
    """An archive of two matrices with its record."""
    frames = {name: np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32) for name in ("a", "b")}
    write_record(tmp_path / "f.ark", write_archive(tmp_path / "f.ark", frames.items(), made_of="x"))
    return tmp_path / "f.ark"


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def test_a_recorded_archive_is_a_kaldi_archive(ark):
    assert [(name, frames.shape) for name, frames in kaldiio.load_ark(str(ark))] == [
        ("a", (5, 3)),
        ("b", (5, 3)),
    ]
    assert find_damage(ark, "x") == ""
    assert load_feats(f"{ark}:2").shape == (5, 3)


def test_any_flipped_bit_of_a_matrix_is_refused_when_it_is_read(ark):
    for place in range(2, 77):
        flip(ark, place)
        with pytest.raises(DataError, match=r"f.ark:2: damaged, .*; run 'adaptkit feats' again"):
            load_feats(f"{ark}:2")
        flip(ark, place)
    assert load_feats(f"{ark}:2").shape == (5, 3)


def test_any_flipped_bit_of_an_archive_is_found_before_it_is_reused(ark):
    for place in range(ark.stat().st_size):
        flip(ark, place)
        assert find_damage(ark, "x") == "damaged"
        flip(ark, place)


def test_any_flipped_bit_of_a_record_is_found_or_changes_nothing(ark):
    record = archive.record_path(ark)
    whole = archive.read_record(ark)
    for place in range(record.stat().st_size):
        flip(record, place)
        assert find_damage(ark, "x") == "damaged" or archive.read_record(ark) == whole
        flip(record, place)


@pytest.mark.parametrize("content", ["", "[]", "{}", "[" * 100_000, '{"made_of": "x", "feats": {}}', "\0"])
def test_a_damaged_record_is_an_error_that_names_it(ark, content):
    archive.record_path(ark).write_text(content)
    with pytest.raises(
        DataError, match="f.json: not the record of an archive, or damaged .*'adaptkit feats'"
    ):
        load_feats(f"{ark}:2")


@pytest.mark.parametrize(
    ("change", "what"),
    [(lambda x: x[:-1], "truncated, 153 of 154"), (lambda x: x + b"a", "damaged, 155 of 154")],
)
def test_another_size_is_refused_before_anything_is_read(ark, change, what):
    ark.write_bytes(change(ark.read_bytes()))
    with pytest.raises(DataError, match=f"f.ark: {what}"):
        refuse_incomplete([f"{ark}:2"])


def test_a_place_between_the_matrices_is_refused(ark):
    with pytest.raises(DataError, match="f.ark:3: no features at this offset"):
        load_feats(f"{ark}:3")
