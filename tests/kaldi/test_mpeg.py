"""MP3 whose header states no length, or a wrong one."""

import io

import numpy as np
import pytest
import soundfile

from adaptkit.errors import DataError
from adaptkit.kaldi.audio import probe, read_audio
from adaptkit.kaldi.mpeg import with_true_length

RATE_HZ = 16000


def speech(seconds, seed=0, level=0.2):
    return level * np.random.default_rng(seed).normal(size=round(RATE_HZ * seconds)).clip(-4, 4)


def encode(samples, mode="VARIABLE", rate_hz=RATE_HZ):
    content = io.BytesIO()
    soundfile.write(content, samples, rate_hz, format="MP3", bitrate_mode=mode)
    return content.getvalue()


def without_count(content):
    """Drop the first frame, which holds no sound but the number of frames."""
    return content[content.index(content[:2], 10) :]


LOUD, QUIET = encode(speech(6)), encode(speech(5, level=1e-4))
TAG = b"ID3\x04\0\0" + bytes([0, 0, 1, 0]) + b"\xff\xfb\x90\x00" * 32


@pytest.fixture
def save(tmp_path):
    """Save content, and give its name."""

    def write(content):
        (tmp_path / "a.mp3").write_bytes(content)
        return str(tmp_path / "a.mp3")

    return write


@pytest.mark.parametrize(
    ("content", "seconds"),
    [
        (LOUD, 6),
        (TAG + LOUD + b"TAG" + bytes(125), 6),
        (without_count(LOUD), 6),
        (without_count(LOUD) + without_count(QUIET), 11),  # the first frames are larger than the mean
        (without_count(QUIET) + without_count(LOUD), 11),  # or smaller
        (LOUD + QUIET, 11),
        (LOUD + LOUD, 12),
        (TAG + QUIET + TAG + LOUD, 11),
        (encode(speech(6), "CONSTANT") + LOUD, 12),
        (without_count(LOUD)[:9000] + bytes(range(200)) + without_count(LOUD), 6 + 6 * 9000 / len(LOUD)),
    ],
)  # fmt: skip
def test_every_frame_is_counted_and_read(save, content, seconds):
    location = save(content)
    found, samples = probe(location), read_audio(location, rate_hz=RATE_HZ)
    assert len(samples) == found.num_samples
    assert found.duration_sec == pytest.approx(seconds, abs=0.25)


@pytest.mark.parametrize("content", [LOUD + QUIET, LOUD + LOUD, without_count(LOUD), LOUD])
def test_the_decoder_has_nothing_to_say_on_stderr(save, capfd, content):
    location = save(content)
    for start_sec in (0.0, 2.0, 4.5):
        read_audio(location, rate_hz=RATE_HZ, start_sec=start_sec, end_sec=start_sec + 1)
    assert capfd.readouterr().err == ""


def test_a_tag_before_flac_is_no_mp3(tmp_path):
    soundfile.write(tmp_path / "a.flac", speech(1), RATE_HZ)
    (tmp_path / "b.flac").write_bytes(TAG + (tmp_path / "a.flac").read_bytes())
    assert probe(str(tmp_path / "b.flac")).num_samples == RATE_HZ


def test_speech_of_joined_files_is_that_of_each(save):
    joined = read_audio(save(LOUD + QUIET), rate_hz=RATE_HZ)
    assert joined[:90000].std() > 0.1
    assert joined[100000:].std() < 1e-3


def test_a_true_count_is_left_as_it_is():
    assert with_true_length("a.mp3", memoryview(LOUD)) is None


def test_any_segment_is_that_of_the_whole(save):
    location = save(LOUD + QUIET)
    whole = read_audio(location, rate_hz=RATE_HZ)
    for start_sec, end_sec in ((0, 1), (3.5, 3.7), (5.9, 10)):
        part = read_audio(location, rate_hz=RATE_HZ, start_sec=start_sec, end_sec=end_sec)
        assert np.array_equal(part, whole[round(start_sec * RATE_HZ) : round(end_sec * RATE_HZ)])


@pytest.mark.parametrize(
    "content",
    [LOUD[: len(LOUD) // 2], without_count(LOUD)[:-9], LOUD[: len(LOUD) // 2] + QUIET, LOUD + QUIET[:-9]],
)
def test_a_missing_end_of_any_part_is_truncated(save, content):
    with pytest.raises(DataError, match="truncated, .*; fetch it again"):
        probe(save(content))


def test_parts_of_other_rates_are_refused(save):
    other = encode(speech(1), rate_hz=8000)
    with pytest.raises(
        DataError, match=r"2 different formats \(8000, 16000 Hz\), as when files are joined by cat"
    ):
        probe(save(LOUD + other))
