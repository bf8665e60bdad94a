"""Extraction: what is written, what a second run keeps, and what is refused."""

import logging

import numpy as np
import pytest
import soundfile
import torch

from adaptkit.errors import DataError
from adaptkit.features import extract as dump
from adaptkit.features.archive import load_feats
from adaptkit.features.fbank import FbankOptions, log_mel
from adaptkit.kaldi import datadir
from adaptkit.kaldi.audio import read_audio
from adaptkit.kaldi.datadir import DataDir, Utterance

OPTIONS = FbankOptions(num_bins=20)


@pytest.fixture(autouse=True)
def two_utterances_an_ark(monkeypatch):
    monkeypatch.setattr(dump, "SHARD_UTTERANCES", 2)


def record(path, num_samples, seed=0):
    samples = np.random.default_rng(seed).normal(0, 0.1, num_samples).clip(-1, 1)
    soundfile.write(path, samples, 16000, subtype="PCM_16")
    return str(path)


@pytest.fixture
def data(tmp_path):
    """Five recordings of 0.5 to 0.9 s, each an utterance."""
    names = [f"bob-{i}" for i in range(5)]
    recordings = {name: record(tmp_path / f"{name}.wav", 8000 + 1600 * i, i) for i, name in enumerate(names)}
    utterances = tuple(Utterance(name, "bob", name, f"WORD {name}", group="loud") for name in names)
    made = DataDir(tmp_path / "data", utterances, recordings)
    datadir.write(made)
    return made


def extract(data, options=OPTIONS, **keywords):
    return dump.extract(data.path, data.path.with_name("dump"), options, **keywords)


def arks(data):
    return {path.name: path.stat().st_mtime_ns for path in data.path.with_name("dump").glob("*.ark")}


def test_the_dump_holds_the_features_of_each_utterance(data):
    extract(data, num_jobs=2)
    made = datadir.read(data.path.with_name("dump"))
    for name, location in data.recordings.items():
        expected = log_mel(read_audio(location, rate_hz=16000), OPTIONS)
        assert torch.equal(load_feats(made.feats[name]), expected)


def test_the_dump_is_the_data_directory_with_features_and_durations(data):
    made = extract(data)
    assert made.utterances == data.utterances
    assert made.recordings == data.recordings
    assert list(made.duration_sec.values()) == pytest.approx([0.5, 0.6, 0.7, 0.8, 0.9])
    assert datadir.read(made.path) == made


def test_numbers_of_frames_and_options_stand_beside_the_features(data):
    made = extract(data)
    assert (made.path / "utt2num_frames").read_text().splitlines()[0] == "bob-0 48"
    assert '"num_bins": 20' in (made.path / "feats.json").read_text()


def test_the_number_of_jobs_changes_no_byte(data):
    one = {path.name: path.read_bytes() for path in extract(data).path.glob("*.ark")}
    for path in data.path.with_name("dump").glob("feats.*"):
        path.unlink()
    assert {path.name: path.read_bytes() for path in extract(data, num_jobs=3).path.glob("*.ark")} == one


def test_a_second_run_keeps_every_ark(data):
    extract(data)
    before = arks(data)
    extract(data)
    assert arks(data) == before
    assert len(before) == 3


def test_a_killed_run_goes_on_with_the_arks_that_are_missing(data, caplog):
    made, before = extract(data), arks(data)
    for name in ("feats.2.json", "feats.scp"):
        (made.path / name).unlink()
    with caplog.at_level(logging.INFO):
        assert extract(data) == made
    assert [name for name, time in arks(data).items() if time != before[name]] == ["feats.2.ark"]
    assert "2 of 3 arks exist already" in caplog.text
    assert "features: 2 utterances" in caplog.text


def test_other_options_make_every_ark_again_and_say_so(data, caplog):
    extract(data)
    with caplog.at_level(logging.INFO):
        made = extract(data, FbankOptions(num_bins=30))
    assert load_feats(made.feats["bob-3"]).shape[1] == 30
    assert "making 3 arks again: made from other data or options" in caplog.text


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("feats.2.ark", lambda content: content[:-7]),
        ("feats.2.ark", lambda content: content[:2000] + b"?" + content[2001:]),
        ("feats.2.json", lambda content: content[:-7]),
        ("feats.2.json", lambda content: b"{}"),
    ],
)
def test_a_damaged_ark_is_refused_by_readers_and_made_again(data, caplog, name, damage):
    made = extract(data)
    whole = (made.path / name).read_bytes()
    (made.path / name).write_bytes(damage(whole))
    with pytest.raises(DataError, match=r"feats\.2\..*; run 'adaptkit feats' again"):
        load_feats(made.feats["bob-2"])
    with caplog.at_level(logging.INFO):
        assert extract(data) == made
    assert "making 1 ark again: damaged" in caplog.text
    assert (made.path / name).read_bytes() == whole
    assert len(load_feats(made.feats["bob-2"])) == 68


def test_a_recording_that_changes_makes_only_its_ark_again(data, tmp_path):
    extract(data)
    before = arks(data)
    record(tmp_path / "bob-4.wav", 4000)
    assert extract(data).duration_sec["bob-4"] == 0.25
    assert [name for name, time in arks(data).items() if time != before[name]] == ["feats.3.ark"]


def test_an_archive_of_recordings_that_changes_makes_its_arks_again(data, tmp_path):
    archive = tmp_path / "wav.ark"
    for name in ("bob-0", "bob-1"):
        archive.write_bytes((tmp_path / f"{name}.wav").read_bytes())
        made = DataDir(data.path, data.utterances[:1], {"bob-0": f"{archive}:0"})
        datadir.write(made)
        found = extract(data)
    expected = log_mel(read_audio(str(tmp_path / "bob-1.wav"), rate_hz=16000), OPTIONS)
    assert torch.equal(load_feats(found.feats["bob-0"]), expected)


def test_arks_of_an_earlier_larger_set_and_of_a_killed_run_are_removed(data):
    (extract(data).path / ".feats.2.1.partial.ark").touch()
    datadir.write(DataDir(data.path, data.utterances[:1], {"bob-0": data.recordings["bob-0"]}))
    made = extract(data)
    assert sorted(path.name for path in made.path.glob("*feats.*")) == [
        "feats.1.ark", "feats.1.json", "feats.json", "feats.scp"]  # fmt: skip


def test_more_than_a_twentieth_of_failures_is_refused_with_the_first_of_them(data, tmp_path):
    record(tmp_path / "bob-2.wav", 399)
    expected = r"no features for 1 of 5 utterances: bob-2 \(399 samples are shorter than one window of 400\)"
    with pytest.raises(DataError, match=expected):
        extract(data)
    assert not (tmp_path / "dump" / "feats.scp").exists()


def test_up_to_a_twentieth_of_failures_is_left_out_and_said(data, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(dump, "MOST_FAILED", 0.2)
    record(tmp_path / "bob-2.wav", 399)
    made = extract(data)
    assert [u.utt_id for u in datadir.read(made.path).utterances] == ["bob-0", "bob-1", "bob-3", "bob-4"]
    assert "no features for 1 utterance: bob-2 (399 samples" in caplog.text


def test_an_utterance_that_failed_is_tried_again(data, tmp_path):
    (tmp_path / "bob-1.wav").rename(tmp_path / "away.wav")
    with pytest.raises(DataError, match="bob-1"):
        extract(data)
    (tmp_path / "away.wav").rename(tmp_path / "bob-1.wav")
    assert len(extract(data).utterances) == 5


def test_the_data_directory_itself_is_no_place_for_features(data):
    with pytest.raises(DataError, match="features need a separate folder"):
        dump.extract(data.path, data.path, OPTIONS)


@pytest.fixture
def segmented(tmp_path):
    """One recording of 3 s and its three overlapping segments, as a command that counts its calls."""
    record(tmp_path / "long.wav", 48000)
    command = f"echo >> {tmp_path}/calls; cat {tmp_path}/long.wav |"
    spans = [(0.0, 1.0), (0.5, 1.5), (1.5, 3.02)]
    utterances = tuple(Utterance(f"bob-{i}", "bob", "long", "WORD", *span) for i, span in enumerate(spans))
    made = DataDir(tmp_path / "data", utterances, {"long": command})
    datadir.write(made)
    return made


def test_a_segmented_recording_is_opened_once_for_each_ark(segmented, tmp_path):
    made = extract(segmented, allow_pipes=True)
    assert len((tmp_path / "calls").read_text().splitlines()) == 2
    assert made.duration_sec == pytest.approx({"bob-0": 1.0, "bob-1": 1.0, "bob-2": 1.5})


def test_segments_have_the_features_of_their_own_span(segmented, tmp_path):
    made = extract(segmented, allow_pipes=True)
    for u in made.utterances:
        span = {"start_sec": u.start_sec, "end_sec": u.end_sec}
        expected = log_mel(read_audio(str(tmp_path / "long.wav"), rate_hz=16000, **span), OPTIONS)
        assert torch.equal(load_feats(made.feats[u.utt_id]), expected)


@pytest.fixture
def fast(tmp_path):
    """Close, overlapping and touching segments of a recording at 44.1 kHz."""
    samples = np.random.default_rng(0).normal(0, 0.1, 3 * 44100)
    soundfile.write(tmp_path / "fast.wav", samples, 44100, subtype="PCM_16")
    spans = [(0.0, 0.5), (0.3, 1.234), (1.234, 2.0), (2.01, 3.0)]
    utterances = tuple(Utterance(f"bob-{i}", "bob", "fast", "WORD", *span) for i, span in enumerate(spans))
    made = DataDir(tmp_path / "data", utterances, {"fast": f"{tmp_path}/fast.wav"})
    datadir.write(made)
    return made


def test_resampled_features_depend_on_no_neighbour_and_are_those_that_noise_is_added_to(fast):
    together = {utt_id: load_feats(location) for utt_id, location in extract(fast).feats.items()}
    for u in fast.utterances:
        datadir.write(DataDir(fast.path, (u,), fast.recordings))
        alone = load_feats(extract(fast).feats[u.utt_id])
        span = {"start_sec": u.start_sec, "end_sec": u.end_sec}
        cut = read_audio(fast.recordings["fast"], rate_hz=16000, **span)  # as for noise
        assert torch.equal(alone, together[u.utt_id])
        assert torch.equal(log_mel(cut, OPTIONS), alone)


def test_a_segment_after_the_end_of_its_recording_fails_alone(data, tmp_path, monkeypatch):
    monkeypatch.setattr(dump, "MOST_FAILED", 0.5)
    spans = [(0.0, 0.4), (0.1, 2.0)]
    utterances = tuple(Utterance(f"bob-{i}", "bob", "bob-0", "WORD", *span) for i, span in enumerate(spans))
    datadir.write(DataDir(data.path, utterances, {"bob-0": data.recordings["bob-0"]}))
    assert [u.utt_id for u in extract(data).utterances] == ["bob-0"]


def test_commands_are_not_run_unless_allowed(segmented, tmp_path):
    with pytest.raises(DataError, match="allow it with --allow-pipes"):
        extract(segmented)
    assert not (tmp_path / "calls").exists()
