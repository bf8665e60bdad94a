"""Recordings found in folders and lists, and refused by what their headers say."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from adaptkit.augment.recordings import find_recordings
from adaptkit.errors import DataError


@pytest.fixture
def write(tmp_path):
    """Write a second of noise below the folder of the test, and give its path."""

    def make(name, num_channels=1, rate_hz=8000):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        samples = np.random.default_rng(0).normal(0, 0.1, (rate_hz, num_channels))
        soundfile.write(path, samples, rate_hz)
        return path

    return make


def names(recordings, folder):
    return [recording.location.removeprefix(f"{folder}/") for recording in recordings]


def test_a_folder_is_searched_to_its_depths_in_order(write, tmp_path):
    for name in ("b.flac", "a/z.WAV", "c.ogg"):
        write(f"noise/{name}")
    for name in ("README", "._b.flac", "a/.z.wav"):  # the second is what macOS adds to archives
        (tmp_path / "noise" / name).write_text("not a recording")
    found = find_recordings([tmp_path / "noise"], "noises")
    assert names(found, tmp_path / "noise") == ["a/z.WAV", "b.flac", "c.ogg"]


def test_a_list_names_recordings_in_its_own_order(write, tmp_path):
    paths = [write(name) for name in ("b.wav", "a.aiff")]
    (tmp_path / "wav.scp").write_text("".join(f"{path.stem} {path}\n" for path in paths))
    found = find_recordings([tmp_path / "wav.scp"], "noises")
    assert names(found, tmp_path) == ["b.wav", "a.aiff"]
    assert [recording.num_samples for recording in found] == [8000, 8000]


def test_a_folder_with_a_list_is_that_list(write, tmp_path):
    write("noise/b.wav")
    (tmp_path / "noise/wav.scp").write_text(f"a {write('elsewhere/a.wav')}\n")
    assert names(find_recordings([tmp_path / "noise"], "noises"), tmp_path) == ["elsewhere/a.wav"]


def test_several_places_follow_one_another(write, tmp_path):
    folders = [write(f"{name}/x.wav").parent for name in "ba"]
    assert names(find_recordings(folders, "rooms"), tmp_path) == ["b/x.wav", "a/x.wav"]


def test_paths_count_from_the_working_folder(write, tmp_path, monkeypatch):
    write("noise/x.wav")
    monkeypatch.chdir(tmp_path)
    assert find_recordings([Path("noise")], "noises")[0].location == "noise/x.wav"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere", r"noises: \S+nowhere: no such folder or list \(relative to .*; correct the list"),
        ("empty", r"empty: contains no recordings \(\.wav"),
        ("empty.scp", "empty.scp: expected a list of lines 'name location'"),
        ("half.scp", "half.scp: expected a list of lines 'name location'"),
        ("x.wav", "x.wav: a recording; expected a folder or a list of recordings"),
    ],
)
def test_places_without_recordings_are_refused(write, tmp_path, name, message):
    write("x.wav")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.scp").touch()
    (tmp_path / "half.scp").write_text("name\n")
    with pytest.raises(DataError, match=message):
        find_recordings([tmp_path / name], "noises")


def test_all_unusable_recordings_are_named_together(write, tmp_path):
    write("noise/fine.wav")
    write("noise/stereo.wav", num_channels=2)
    cut = write("noise/cut.wav")
    cut.write_bytes(cut.read_bytes()[:9000])
    with pytest.raises(DataError) as caught:
        find_recordings([tmp_path / "noise"], "noises")
    assert str(caught.value).startswith("noises: 2 of 3 recordings: ")
    assert "cut.wav: truncated" in str(caught.value)
    assert "stereo.wav: 2 channels where one is needed" in str(caught.value)


def test_commands_in_a_list_are_not_run(tmp_path):
    (tmp_path / "wav.scp").write_text(f"a touch {tmp_path}/ran |\n")
    with pytest.raises(DataError, match="a shell command, which is not run here; write its output to a file"):
        find_recordings([tmp_path / "wav.scp"], "noises")
    assert not (tmp_path / "ran").exists()
