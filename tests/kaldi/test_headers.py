"""Headers that state another length than the recording has."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from adaptkit.errors import DataError
from adaptkit.kaldi import flac
from adaptkit.kaldi.audio import probe, read_audio
from adaptkit.kaldi.validate import find_problems

RATE_HZ = 16000


def noise(seconds, seed=0):
    return 0.1 * np.random.default_rng(seed).normal(size=round(RATE_HZ * seconds))


def encode(speech, container, subtype=None):
    content = io.BytesIO()
    soundfile.write(content, speech, RATE_HZ, format=container, subtype=subtype)
    return content.getvalue()


def with_flac_total(content, total):
    content = bytearray(content)
    content[21] = content[21] & 0xF0 | total >> 32
    content[22:26] = (total & 0xFFFFFFFF).to_bytes(4, "big")
    return bytes(content)


@pytest.mark.parametrize("seconds", [0.3, 1.0, 7.7])
@pytest.mark.parametrize("level", [0.0, 1.0])
def test_the_last_frame_of_flac_says_where_it_ends(seconds, level):
    speech = level * noise(seconds)
    assert flac.find_end(io.BytesIO(encode(speech, "FLAC"))) == len(speech)


def test_flac_that_goes_on_beyond_its_header_is_refused(tmp_path):
    (tmp_path / "a.flac").write_bytes(with_flac_total(encode(noise(10), "FLAC"), RATE_HZ))
    with pytest.raises(DataError, match="states 16000 samples, but the last one is number 160000; fetch it"):
        probe(str(tmp_path / "a.flac"))


def test_flac_that_ends_before_its_header_says_is_truncated(tmp_path):
    (tmp_path / "a.flac").write_bytes(with_flac_total(encode(noise(1), "FLAC"), 10 * 3600 * RATE_HZ))
    with pytest.raises(DataError, match="truncated, 16000 of 576000000 samples"):
        probe(str(tmp_path / "a.flac"))


@pytest.mark.parametrize(
    ("container", "subtype"),
    [
        ("WAV", "PCM_16"),
        ("AIFF", "PCM_16"),
        ("AU", "PCM_16"),
        ("NIST", "PCM_16"),
        ("W64", "PCM_16"),
        ("CAF", "PCM_16"),
        ("RF64", "PCM_16"),
        ("FLAC", "PCM_16"),
        ("OGG", "VORBIS"),
        ("OGG", "OPUS"),
    ],
)
def test_files_joined_by_cat_are_refused_rather_than_half_read(tmp_path, container, subtype):
    (tmp_path / "one").write_bytes(encode(noise(1), container, subtype))
    (tmp_path / "two").write_bytes(
        encode(noise(1), container, subtype) + encode(noise(1, 1), container, subtype)
    )
    assert probe(str(tmp_path / "one")).num_samples == RATE_HZ
    with pytest.raises(DataError, match="joined by cat|not audio"):
        probe(str(tmp_path / "two"))


def test_wav_whose_header_was_never_finished_is_refused(tmp_path):
    content = bytearray(encode(noise(10), "WAV"))
    content[40:44] = (32000).to_bytes(4, "little")
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(DataError, match=r"states 1\.00 s, but 288044 more bytes follow"):
        probe(str(tmp_path / "a.wav"))


def test_chunks_and_tags_after_the_samples_are_no_samples(tmp_path):
    note = b"LIST" + (60000).to_bytes(4, "little") + bytes(60000)
    content = encode(noise(1), "WAV") + note
    (tmp_path / "a.wav").write_bytes(b"RIFF" + (len(content) - 8).to_bytes(4, "little") + content[8:])
    (tmp_path / "b.wav").write_bytes(encode(noise(1), "WAV") + b"TAG" + bytes(125))
    (tmp_path / "c.flac").write_bytes(encode(noise(1), "FLAC") + b"TAG" + bytes(125))
    assert [probe(str(tmp_path / name)).num_samples for name in ("a.wav", "b.wav", "c.flac")] == [RATE_HZ] * 3


@pytest.mark.parametrize(
    ("container", "subtype"),
    [
        ("WAV", "GSM610"),
        ("WAV", "G721_32"),
        ("WAV", "NMS_ADPCM_32"),
        ("AU", "G723_24"),
        ("MP3", None),
        ("OGG", "VORBIS"),
    ],
)
def test_what_cannot_seek_is_whole_and_read_in_order(tmp_path, container, subtype):
    speech = noise(3)
    (tmp_path / "a").write_bytes(encode(speech, container, subtype))
    with soundfile.SoundFile(tmp_path / "a") as file:
        whole = file.read(len(speech), dtype="float32")
    assert probe(str(tmp_path / "a")).num_samples == len(whole) == len(speech)
    part = read_audio(str(tmp_path / "a"), rate_hz=RATE_HZ, start_sec=1.5, end_sec=2.25)
    assert np.array_equal(part, whole[24000:36000])


@pytest.mark.parametrize("subtype", ["GSM610", "G721_32"])
def test_what_cannot_seek_is_found_truncated(tmp_path, subtype):
    content = encode(noise(3), "WAV", subtype)
    (tmp_path / "a").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match="truncated"):
        probe(str(tmp_path / "a"))


@pytest.mark.parametrize("kind", ["fifo", "device", "folder"])
def test_only_regular_files_are_recordings(folder, tmp_path, kind):
    place = {"fifo": tmp_path / "fifo", "device": Path("/dev/zero"), "folder": tmp_path}[kind]
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(DataError, match="not a regular file; replace it with the file itself"):
        probe(str(place))
    with pytest.raises(DataError, match="not a regular file"):
        probe(f"{place}:7")
    folder.edit("wav.scp", str(folder.recording("anna-2")).encode(), str(place).encode())
    (problem,) = find_problems(folder.path)
    assert (problem.utt_id, problem.remedy) == ("anna-2", "replace it with the file itself")


@pytest.mark.parametrize("location", ["a\0b", "a\0b:3", "a.ark:" + "9" * 23, "a.ark:-1", ":5", "a" * 5000])
def test_a_location_that_is_no_path_is_refused(tmp_path, location, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.ark").write_bytes(b"x RIFF")
    with pytest.raises(DataError):
        probe(location)
