import logging
import os
import shlex
import wave
from pathlib import Path

import kaldiio
import numpy as np
import pytest
import soundfile
import torch

from adaptkit.errors import DataError
from adaptkit.kaldi import recording
from adaptkit.kaldi.audio import count_samples, probe, read_audio, write_audio
from adaptkit.kaldi.datadir import DataDir, Utterance


def tone(seconds=1.0, rate_hz=16000, hz=440.0):
    """A quiet sine; 16-bit values, so that any lossless format gives them back exactly."""
    wave = 0.2 * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate_hz)) / rate_hz)
    return np.round(wave * 32768).astype(np.int16)


@pytest.fixture
def make_recording(tmp_path):
    """Write a tone to a file of any format libsndfile writes, and give its name."""

    def make(name="a.wav", *, seconds=1.0, rate_hz=16000, **layout):
        path = tmp_path / name
        soundfile.write(path, tone(seconds, rate_hz), rate_hz, **layout)
        return str(path)

    return make


@pytest.fixture
def cut_in_half():
    """Keep only the first half of a file's bytes."""

    def cut(location):
        data = Path(location).read_bytes()
        Path(location).write_bytes(data[: len(data) // 2])
        return location

    return cut


EXPECTED = torch.from_numpy(tone().astype(np.float32) / 32768)


@pytest.mark.parametrize(
    ("name", "layout"),
    [("a.wav", {}), ("a.flac", {}), ("a.sph", {"format": "NIST"}), ("a.aiff", {})],
)  # fmt: skip
def test_lossless_formats_give_the_samples_exactly(make_recording, name, layout):
    assert torch.equal(read_audio(make_recording(name, **layout), rate_hz=16000), EXPECTED)


@pytest.mark.parametrize("order", ["<i2", ">i2"])
def test_raw_files_are_read_in_either_byte_order(tmp_path, order):
    location = tmp_path / "a.raw"
    tone().astype(order).tofile(location)
    assert torch.equal(read_audio(str(location), rate_hz=16000), EXPECTED)


def test_byte_order_of_raw_files_is_logged_once(tmp_path, caplog):
    recording._log_byte_order.cache_clear()
    for name in ("a.raw", "b.raw"):
        tone().astype(">i2").tofile(tmp_path / name)
        with caplog.at_level(logging.INFO):
            probe(str(tmp_path / name))
    assert [record.message for record in caplog.records] == [
        "headerless .raw at 16000 Hz: big-endian, loud noise in the other order"
    ]


def test_raw_file_that_is_noise_both_ways_is_not_audio(tmp_path):
    location = tmp_path / "a.raw"
    location.write_bytes(np.random.default_rng(0).bytes(40000))
    with pytest.raises(DataError, match="loud noise in either byte order"):
        read_audio(str(location), rate_hz=16000)


def test_raw_file_of_odd_size_is_truncated(tmp_path):
    location = tmp_path / "a.raw"
    location.write_bytes(tone().tobytes()[:-1])
    with pytest.raises(DataError, match="31999 bytes are not whole 16-bit samples"):
        probe(str(location))


def test_segment_is_the_stretch_of_the_whole(make_recording):
    segment = read_audio(make_recording("a.flac"), rate_hz=16000, start_sec=0.25, end_sec=0.5)
    assert torch.equal(segment, EXPECTED[4000:8000])


def test_segment_a_little_too_long_is_clipped(make_recording):
    segment = read_audio(make_recording(), rate_hz=16000, start_sec=0.5, end_sec=1.04)
    assert torch.equal(segment, EXPECTED[8000:])


@pytest.mark.parametrize(("start", "end"), [(0.5, 1.06), (0.5, 0.5), (0.6, 0.4), (-0.1, 0.4), (1.01, 1.02)])
def test_segment_outside_its_recording_is_refused(make_recording, start, end):
    with pytest.raises(DataError, match=rf"\(1.00 s\): the segment {start} to {end} s"):
        read_audio(make_recording(), rate_hz=16000, start_sec=start, end_sec=end)


def test_resampled_tone_keeps_its_pitch_and_level(make_recording):
    samples = read_audio(make_recording(rate_hz=8000), rate_hz=16000)
    inner = slice(800, -800)  # the filter rings at both ends
    assert samples.shape == (16000,)
    assert torch.allclose(samples[inner], EXPECTED[inner], atol=2e-3)


def test_rates_without_common_divisor_are_refused(make_recording):
    with pytest.raises(DataError, match="no short filter resamples 15999 Hz to 16000 Hz"):
        read_audio(make_recording(rate_hz=15999), rate_hz=16000)


def test_several_channels_are_refused(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.stack([tone(), tone()], axis=1), 16000)
    with pytest.raises(DataError, match="2 channels where one is needed"):
        read_audio(str(tmp_path / "a.wav"), rate_hz=16000)


@pytest.mark.parametrize("level", [np.nan, np.inf, 6554.0])
def test_samples_far_beyond_full_scale_are_refused(tmp_path, level):
    soundfile.write(tmp_path / "a.wav", np.array([0.0, level]), 16000, subtype="FLOAT")
    with pytest.raises(DataError, match=f"samples reach {level:g}, but full scale is 1"):
        read_audio(str(tmp_path / "a.wav"), rate_hz=16000)


def test_float_recording_keeps_its_samples(tmp_path):
    soundfile.write(tmp_path / "a.wav", EXPECTED.numpy(), 16000, subtype="FLOAT")
    assert torch.equal(read_audio(str(tmp_path / "a.wav"), rate_hz=16000), EXPECTED)


@pytest.mark.parametrize("suffix", [":4", " |"])
def test_archive_and_command_give_the_same_samples(make_recording, tmp_path, suffix):
    wav = make_recording()
    archive = tmp_path / "a.ark"
    archive.write_bytes(b"utt " + Path(wav).read_bytes() + b"utt2 RIFF")
    location = f"{archive}:4" if suffix == ":4" else f"cat {shlex.quote(wav)} |"
    assert torch.equal(read_audio(location, rate_hz=16000, allow_pipes=True), EXPECTED)


@pytest.mark.parametrize("options", [{}, {"write_function": "soundfile"}])
def test_archives_of_kaldiio_are_read(tmp_path, options):
    archive, scp = str(tmp_path / "a.ark"), str(tmp_path / "a.scp")
    kaldiio.save_ark(archive, {"x": (16000, tone(0.5)), "y": (16000, tone())}, scp=scp, **options)
    location = Path(scp).read_text().split()[3]
    assert torch.equal(read_audio(location, rate_hz=16000), EXPECTED)


def test_archive_of_features_is_not_audio(tmp_path):
    kaldiio.save_ark(str(tmp_path / "a.ark"), {"x": np.zeros((4, 3), np.float32)})
    with pytest.raises(DataError, match="no audio at byte 2 of the archive"):
        probe(f"{tmp_path}/a.ark:2")


@pytest.mark.parametrize("entry", [b"AUDIO", b"AUDIO\x09" + bytes(20), b"", b"AUDIO\x08" + b"\xff" * 9])
def test_archive_with_a_spoilt_entry_is_refused(tmp_path, entry):
    (tmp_path / "a.ark").write_bytes(b"x " + entry)
    with pytest.raises(DataError, match=r"a.ark:2: (no audio|truncated|an empty)"):
        probe(f"{tmp_path}/a.ark:2")


def test_truncated_archive_is_refused(make_recording, tmp_path, cut_in_half):
    archive = tmp_path / "a.ark"
    archive.write_bytes(b"x " + Path(make_recording()).read_bytes())
    with pytest.raises(DataError, match="truncated, 16021 of 32044 bytes"):
        probe(f"{cut_in_half(archive)}:2")


def test_commands_are_not_run_unless_allowed(tmp_path):
    with pytest.raises(DataError, match="--allow-pipes"):
        probe(f"touch {tmp_path}/ran |")
    assert not (tmp_path / "ran").exists()


def test_failing_command_shows_what_it_said():
    with pytest.raises(DataError, match="exit code 3, stderr: no such channel; run the command by hand"):
        probe("echo no such channel >&2; exit 3 |", allow_pipes=True)


def test_commands_do_not_read_the_input_of_adaptkit(make_recording, tmp_path):
    (tmp_path / "input").write_text("the next line of a shell loop")
    location, kept = f"cat > {tmp_path}/taken; cat {make_recording()} |", os.dup(0)
    try:
        with open(tmp_path / "input", "rb") as file:
            os.dup2(file.fileno(), 0)
        probe(location, allow_pipes=True)
    finally:
        os.dup2(kept, 0)
        os.close(kept)
    assert (tmp_path / "taken").read_text() == ""


def test_silent_command_is_refused():
    with pytest.raises(DataError, match="no output, stderr: nothing"):
        probe("true |", allow_pipes=True)


def test_wav_streamed_by_a_command_has_no_length_to_check(make_recording, tmp_path):
    data = bytearray(Path(make_recording()).read_bytes())
    data[4:8] = data[40:44] = b"\xff\xff\xff\xff"  # what ffmpeg writes to a pipe
    (tmp_path / "stream.wav").write_bytes(data)
    assert probe(f"cat {tmp_path}/stream.wav |", allow_pipes=True).num_samples == 16000


def test_flac_of_unstated_length_is_refused(make_recording):
    location = Path(make_recording("a.flac"))
    data = bytearray(location.read_bytes())
    data[21] &= 0xF0  # the 36 bits of STREAMINFO's total samples
    data[22:26] = bytes(4)
    location.write_bytes(data)
    with pytest.raises(DataError, match="does not state the length"):
        probe(str(location))


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.aiff", "a.au", "a.w64", "a.mp3", "a.ogg"])
def test_truncated_recording_is_refused(make_recording, cut_in_half, name, capfd):
    location = cut_in_half(make_recording(name, seconds=5))
    with pytest.raises(DataError, match=f"{name}: truncated, .*; fetch it again"):
        probe(location)


def test_truncated_sphere_file_is_refused(make_recording, cut_in_half):
    location = cut_in_half(make_recording("a.sph", format="NIST"))
    with pytest.raises(DataError, match="truncated, 7744 of 16000 samples"):
        probe(location)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "an empty file; fetch it again"),
        (b"<html>404 Not Found</html>", r"not audio \(Format not recognised\); convert it to WAV or FLAC"),
        (b"NIST_1A\n   1024\nsample_coding -s20 pcm,embedded-shorten\n", "decompress it with sph2pipe"),
        (b"RIFF", "not audio"),
    ],
)
def test_what_is_not_audio_is_refused(tmp_path, content, message):
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(DataError, match=message):
        probe(str(tmp_path / "a.wav"))


def test_missing_recording_is_named_with_the_folder_it_was_sought_in():
    with pytest.raises(DataError, match=rf"^lost/a.wav: no such file or folder \(relative to {Path.cwd()}\)"):
        probe("lost/a.wav")


def test_folder_is_not_a_recording(tmp_path):
    with pytest.raises(DataError, match="is a folder, not a regular file"):
        probe(str(tmp_path))


def test_recording_without_samples_is_refused(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(0, np.int16), 16000)
    with pytest.raises(DataError, match="contains no samples"):
        probe(str(tmp_path / "a.wav"))


@pytest.mark.parametrize("rate_hz", [160, 1600000])
def test_rate_that_no_speech_has_is_refused(make_recording, rate_hz):
    with pytest.raises(DataError, match=f"the header says {rate_hz} Hz, outside 4000 to 192000 Hz"):
        probe(make_recording(rate_hz=rate_hz, seconds=1600 / rate_hz))


def test_rate_that_contradicts_the_bytes_a_second_is_refused(make_recording):
    location = Path(make_recording())
    data = bytearray(location.read_bytes())
    data[24:28] = (8000).to_bytes(4, "little")  # the rate alone, not the bytes a second after it
    location.write_bytes(data)
    with pytest.raises(DataError, match="8000 Hz is 16000 bytes per second, but it says 32000"):
        probe(str(location))


def test_probe_agrees_with_the_wave_module(make_recording):
    location = make_recording(seconds=0.7, rate_hz=22050)
    with wave.open(location) as file:
        expected = (file.getframerate(), file.getnframes(), file.getnchannels())
    found = probe(location)
    assert (found.rate_hz, found.num_samples, found.num_channels) == expected
    assert found.duration_sec == 0.7


def test_audio_that_is_there_already_is_not_touched(tmp_path):
    write_audio(tmp_path / "a.wav", torch.full((1000,), 0.5), rate_hz=8000)
    before = (tmp_path / "a.wav").stat().st_mtime_ns
    write_audio(tmp_path / "a.wav", torch.full((1000,), 0.5), rate_hz=8000)
    assert (tmp_path / "a.wav").stat().st_mtime_ns == before
    write_audio(tmp_path / "a.wav", torch.full((999,), 0.5), rate_hz=8000)
    assert probe(str(tmp_path / "a.wav")).num_samples == 999


def test_written_audio_is_clipped_at_full_scale_and_else_right_to_a_step(tmp_path):
    write_audio(tmp_path / "a.wav", torch.tensor([-2.0, -1.0, 0.3, 1.0, 2.0]), rate_hz=8000)
    expected = torch.tensor([-1.0, -1.0, 0.3, 1.0, 1.0])
    torch.testing.assert_close(
        read_audio(str(tmp_path / "a.wav"), rate_hz=8000), expected, atol=2**-15, rtol=0
    )


@pytest.mark.parametrize("rate_hz", [8000, 16000, 22050])
@pytest.mark.parametrize(
    ("start_sec", "end_sec"), [(0.0, None), (0.3, None), (0.12345, 0.98765), (0.5, 1.04)]
)
def test_samples_are_counted_as_they_are_read(make_recording, tmp_path, rate_hz, start_sec, end_sec):
    location = make_recording(rate_hz=11025, seconds=1.01)
    utterance = Utterance("a-1", "a", "call", "YES", start_sec, end_sec)
    data = DataDir(tmp_path, (utterance,), {"call": location})
    samples = read_audio(location, rate_hz=rate_hz, start_sec=start_sec, end_sec=end_sec)
    assert count_samples(data, rate_hz=rate_hz) == [len(samples)]
