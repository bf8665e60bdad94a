"""Copies of data directories at other speeds."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from adaptkit.errors import AdaptkitError, ConfigError
from adaptkit.kaldi import datadir
from adaptkit.kaldi.audio import read_audio
from adaptkit.kaldi.datadir import DataDir, Utterance
from adaptkit.kaldi.perturb import at_speed, perturb


@pytest.fixture
def data(tmp_path):
    """Two segments of a recording of 2 s, a tone of 400 Hz."""
    soundfile.write(tmp_path / "r.wav", 0.3 * np.sin(2 * np.pi * 400 * np.arange(32000) / 16000), 16000)
    utterances = (
        Utterance("a-1", "a", "r", "ONE", 0.0, 1.0),
        Utterance("a-2", "a", "r", "TWO", 1.0, 1.8, task="numbers"),
    )
    made = DataDir(tmp_path / "data", utterances, {"r": str(tmp_path / "r.wav")})
    datadir.write(made)
    return made


@pytest.mark.parametrize("speed", [0.9, 1.1])
def test_tempo_and_pitch_scale_together(speed):
    tone = torch.sin(2 * torch.pi * 400 * torch.arange(16000) / 16000)
    changed = at_speed(tone, speed)
    assert len(changed) == np.ceil(16000 / speed)
    peak = torch.fft.rfft(changed).abs().argmax() * 16000 / len(changed)
    assert float(peak) == pytest.approx(400 * speed, abs=2)
    assert at_speed(tone, 1.0) is tone


def test_copies_have_kaldis_ids_and_scaled_segments(data, tmp_path):
    made = perturb(data.path, tmp_path / "sp")
    assert datadir.read(tmp_path / "sp") == made
    by_id = {u.utt_id: u for u in made.utterances}
    assert list(by_id) == ["a-1", "a-2", "sp0.9-a-1", "sp0.9-a-2", "sp1.1-a-1", "sp1.1-a-2"]
    slow = by_id["sp0.9-a-2"]
    assert (slow.speaker, slow.task, slow.recording, slow.text) == ("sp0.9-a", "numbers", "sp0.9-r", "TWO")
    assert (slow.start_sec, slow.end_sec) == (1.111, 2.0)
    assert by_id["sp0.9-a-1"].task == "sp0.9-a"
    assert made.recordings["r"] == data.recordings["r"]
    assert len(read_audio(made.recordings["sp1.1-r"], rate_hz=16000)) == np.ceil(32000 / 1.1)


def test_the_speaker_can_stay_the_same(data, tmp_path):
    made = perturb(data.path, tmp_path / "sp", [1.1], same_speaker=True)
    assert {(u.utt_id, u.speaker) for u in made.utterances} == {("sp1.1-a-1", "a"), ("sp1.1-a-2", "a")}


@pytest.mark.slow
def test_several_jobs_write_the_same_bytes(data, tmp_path):
    one, two = (perturb(data.path, tmp_path / f"jobs{n}", num_jobs=n).recordings for n in (1, 2))
    for name in ("sp0.9-r", "sp1.1-r"):
        assert read_bytes(one[name]) == read_bytes(two[name])


def read_bytes(path):
    with open(path, "rb") as file:
        return file.read()


@pytest.mark.parametrize("speeds", [[], [0.1], [0.9, 0.9], [0.905]])
def test_speeds_out_of_range_are_refused(data, tmp_path, speeds):
    with pytest.raises(ConfigError, match="such as 0.9, 1.0 and 1.1"):
        perturb(data.path, tmp_path / "sp", speeds)


def test_groups_are_those_of_the_originals(data, tmp_path):
    (data.path / "spk2group").write_text("a child\n")
    made = perturb(data.path, tmp_path / "sp")
    assert {u.group for u in datadir.read(tmp_path / "sp").utterances} == {"child"}
    assert len(made.utterances) == 6


def test_files_made_of_something_else_are_made_again(data, tmp_path):
    made = perturb(data.path, tmp_path / "sp", [0.9, 1.1])
    before = {name: Path(file).stat().st_mtime_ns for name, file in made.recordings.items()}
    Path(made.recordings["sp0.9-r"]).write_bytes(read_bytes(made.recordings["sp1.1-r"]))  # another speed
    perturb(data.path, tmp_path / "sp", [0.9, 1.1])
    assert len(read_audio(made.recordings["sp0.9-r"], rate_hz=16000)) == np.ceil(32000 / 0.9)
    assert Path(made.recordings["sp1.1-r"]).stat().st_mtime_ns == before["sp1.1-r"]
    soundfile.write(tmp_path / "r.wav", 0.3 * np.cos(2 * np.pi * 400 * np.arange(32000) / 16000), 16000)
    stale = read_bytes(made.recordings["sp1.1-r"])
    perturb(data.path, tmp_path / "sp", [0.9, 1.1])
    assert read_bytes(made.recordings["sp1.1-r"]) != stale


def test_files_made_of_an_archive_that_changes_are_made_again(data, tmp_path):
    archive, one = tmp_path / "wav.ark", tmp_path / "r.wav"
    archive.write_bytes(one.read_bytes())
    datadir.write(replace(data, recordings={"r": f"{archive}:0"}))
    made = perturb(data.path, tmp_path / "sp", [0.9])
    stale = read_bytes(made.recordings["sp0.9-r"])
    soundfile.write(one, 0.3 * np.cos(2 * np.pi * 400 * np.arange(32000) / 16000), 16000)
    archive.write_bytes(one.read_bytes())
    perturb(data.path, tmp_path / "sp", [0.9])
    assert read_bytes(made.recordings["sp0.9-r"]) != stale


def test_the_command_writes_copies(adaptkit, data, tmp_path):
    done = adaptkit("data", "perturb", data.path, tmp_path / "sp", "--rate", 8000)
    assert done.stdout == f"{tmp_path}/sp: 6 utterances of 3 speakers\n"
    words = (data.path, tmp_path / "one", "--speed", 0.9, "--same-speaker", "--nj", 2, "--rate", 8000)
    assert adaptkit("data", "perturb", *words).stdout == f"{tmp_path}/one: 2 utterances of 1 speaker\n"
    one, other = (tmp_path / name / "audio" / "sp0.9-r.wav" for name in ("sp", "one"))
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.slow
def test_a_killed_job_is_a_message(data, tmp_path):
    (tmp_path / "sh").write_text("kill -9 $PPID")  # the shell's parent is the job
    killing = {name: f"exec sh {tmp_path}/sh {name} |" for name in ("r", "s")}
    datadir.write(replace(data, recordings=killing))
    with pytest.raises(AdaptkitError, match=r"speed perturbation: a process was killed.*fewer jobs \(--nj\)"):
        perturb(data.path, tmp_path / "out", [0.9], num_jobs=2, allow_pipes=True)
