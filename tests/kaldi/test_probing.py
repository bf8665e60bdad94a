"""Headers of many recordings are those of each, whoever reads them."""

import io
import os
import struct

import numpy as np
import pytest
import soundfile

from adaptkit.errors import AdaptkitError
from adaptkit.kaldi import probing
from adaptkit.kaldi.probing import map_in_jobs, read_headers
from adaptkit.kaldi.recording import Recording, find_plain, opened, probe


def write_wav(path, num_samples, rate_hz=16000, subtype="PCM_16", channels=1):
    samples = 0.1 * np.sin(np.arange(num_samples * channels) / 7).reshape(num_samples, channels)
    soundfile.write(path, samples, rate_hz, subtype=subtype)
    return str(path)


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32"])
@pytest.mark.parametrize(("channels", "num_samples"), [(1, 801), (2, 333)])
def test_plain_wav_is_what_libsndfile_says(tmp_path, subtype, channels, num_samples):
    location = write_wav(tmp_path / "a.wav", num_samples, 8000, subtype, channels)
    assert find_plain(location) is not None
    with opened(location) as (recording, _):
        assert probe(location) == recording == Recording(location, 8000, num_samples, channels)


def other_files(content):
    """A plain WAV file changed in ways that libsndfile has to judge."""
    yield "truncated", content[:-10]
    yield "joined", content + content
    yield "stream", content[:4] + b"\xff\xff\xff\xff" + content[8:40] + b"\xff\xff\xff\xff" + content[44:]
    yield "odd rate", content[:24] + struct.pack("<I", 300) + content[28:]
    yield "false byte rate", content[:28] + struct.pack("<I", 8000) + content[32:]
    yield "no samples", content[:4] + struct.pack("<I", 36) + content[8:40] + struct.pack("<I", 0)
    yield "A-law", content[:20] + struct.pack("<H", 6) + content[22:]
    yield "short", content[:30]
    yield "empty", b""


def test_any_other_file_is_left_to_libsndfile(tmp_path):
    content = io.BytesIO()
    soundfile.write(content, np.zeros(500), 16000, format="WAV", subtype="PCM_16")
    for name, changed in other_files(content.getvalue()):
        (tmp_path / "a.wav").write_bytes(changed)
        assert find_plain(str(tmp_path / "a.wav")) is None, name
    (tmp_path / "a.raw").write_bytes(content.getvalue())
    for location in ("a.raw", "lost.wav", ".", "\0", "cat a.wav |"):
        assert find_plain(str(tmp_path / location)) is None


def test_chunks_before_the_samples_are_skipped(tmp_path):
    content = io.BytesIO()
    soundfile.write(content, np.zeros(500), 16000, format="WAV", subtype="PCM_16")
    head, data = content.getvalue()[:36], content.getvalue()[36:]
    comment = b"LIST" + struct.pack("<I", 5) + b"hello\0"
    size = struct.pack("<I", len(head + comment + data) - 8)
    (tmp_path / "a.wav").write_bytes(head[:4] + size + head[8:] + comment + data)
    wav = find_plain(str(tmp_path / "a.wav"))
    assert (wav.num_samples, wav.offset) == (500, 36 + 14 + 8)
    with opened(str(tmp_path / "a.wav")) as (recording, _):
        assert recording.num_samples == 500


@pytest.mark.parametrize("num_jobs", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_headers_are_in_the_order_of_the_recordings(tmp_path, monkeypatch, num_jobs):
    monkeypatch.setattr(probing, "_CHUNK", 3)
    monkeypatch.setattr(probing, "WORTH_SEC", 0.0)
    monkeypatch.setattr(probing, "SAMPLE_SEC", 1e-9)
    locations = [write_wav(tmp_path / f"{number}.wav", 100 + number) for number in range(10)]
    locations[4:5] = [str(tmp_path / "lost.wav"), "false |"]
    headers = read_headers(locations, num_jobs=num_jobs)
    assert headers.num_samples.tolist() == [100, 101, 102, 103, 0, 0, 105, 106, 107, 108, 109]
    assert headers.durations_sec[1] == 101 / 16000
    assert list(headers.errors) == [4]
    assert "no such file" in str(headers.errors[4])


def test_nothing_has_no_headers():
    assert not len(read_headers([]).num_samples)


def test_no_more_chunks_are_under_way_than_are_soon_needed(monkeypatch):
    monkeypatch.setattr(probing, "_CHUNK", 1)
    taken = []
    made = map_in_jobs(taken.append, range(1000), num_jobs=1, what="items")
    next(made)
    made.close()
    assert len(taken) < 100


@pytest.mark.slow
def test_process_that_is_killed_is_an_error_with_its_remedy(monkeypatch):
    monkeypatch.setattr(probing, "WORTH_SEC", 0.0)
    monkeypatch.setattr(probing, "SAMPLE_SEC", 1e-9)
    words = "sum(range(999999))    ;import os; os._exit(9)"  # the first half runs here
    with pytest.raises(AdaptkitError, match=r"recordings: a process was killed.*fewer jobs \(--nj\)"):
        list(map_in_jobs(exec, words, num_jobs=2, what="recordings", size=23))


@pytest.mark.slow
def test_processes_are_started_only_for_what_takes_longer(monkeypatch):
    made = list(map_in_jobs(_where, range(1000), num_jobs=2, what="items"))
    assert made == [os.getpid()] * 4
    monkeypatch.setattr(probing, "WORTH_SEC", 0.0)
    monkeypatch.setattr(probing, "SAMPLE_SEC", 1e-9)
    first, *others = map_in_jobs(_where, range(1000), num_jobs=2, what="items")
    assert first == os.getpid()
    assert os.getpid() not in others


def _where(items):
    """Return the process that was given some items."""
    return os.getpid()
