import logging
from dataclasses import replace

import pytest
import soundfile
import torch

from adaptkit.errors import ConfigError, DataError
from adaptkit.kaldi import datadir, subset
from adaptkit.kaldi.audio import probe, read_audio
from adaptkit.kaldi.datadir import DataDir, Utterance
from adaptkit.kaldi.join import join, join_speech
from adaptkit.kaldi.tables import write_table


@pytest.fixture
def make_data(tmp_path):
    """Write a data directory of `utterance: (speaker, seconds)`, each a tone at 8 kHz."""

    def make(lengths, amplitude=0.1, offset=0.0, **fields):
        utterances, recordings = [], {}
        for number, (utt_id, (speaker, seconds)) in enumerate(lengths.items()):
            recordings[utt_id] = str(tmp_path / f"{utt_id}.wav")
            tone = amplitude * torch.sin(torch.arange(round(8000 * seconds)) / 4) + offset
            soundfile.write(recordings[utt_id], tone.numpy(), 8000, subtype="FLOAT")
            utterances.append(Utterance(utt_id, speaker, utt_id, f"TEXT {number}", **fields))
        datadir.write(DataDir(tmp_path / "data", tuple(utterances), recordings))
        return datadir.read(tmp_path / "data")

    return make


def of_one(*seconds):
    return {f"a-{number}": ("a", one) for number, one in enumerate(seconds)}


def texts(data):
    return {u.utt_id: u.text for u in data.utterances}


def seconds_of(data):
    return [probe(data.recordings[u.recording]).duration_sec for u in data.utterances]


def test_neighbours_are_joined_as_long_as_they_fit(make_data, tmp_path):
    made = join(make_data(of_one(1.0, 0.5, 0.5, 1.0)), path=tmp_path / "out", most_sec=2.0)
    assert texts(made) == {"a-0-comb3": "TEXT 0 TEXT 1 TEXT 2", "a-3": "TEXT 3"}
    assert seconds_of(made) == [2.0, 1.0]


def test_no_utterance_joins_another_group(make_data, tmp_path):
    data = make_data(of_one(0.5, 0.5, 0.5))
    groups = zip(data.utterances, "xxy", strict=True)
    data = replace(data, utterances=tuple(replace(u, group=group) for u, group in groups))
    made = join(data, path=tmp_path / "out", most_sec=2.0)
    assert [(u.utt_id, u.group) for u in made.utterances] == [("a-0-comb2", "x"), ("a-2", "y")]


def test_an_utterance_that_is_too_long_stays_alone(make_data, tmp_path):
    made = join(make_data(of_one(0.5, 3.0, 0.5, 0.5)), path=tmp_path / "out", most_sec=2.0)
    assert texts(made) == {"a-0": "TEXT 0", "a-1": "TEXT 1", "a-2-comb2": "TEXT 2 TEXT 3"}


@pytest.mark.parametrize("most_sec", [0.01, 0.7, 1.3, 100.0])
def test_nothing_is_lost_and_the_order_stays(make_data, tmp_path, most_sec):
    data = make_data(of_one(*(0.1 + 0.05 * number for number in range(8))))
    made = join(data, path=tmp_path / "out", most_sec=most_sec)
    assert " ".join(texts(made).values()) == " ".join(texts(data).values())
    assert sum(seconds_of(made)) == pytest.approx(sum(seconds_of(data)))


def test_speakers_are_not_mixed_though_one_is_a_prefix_of_another(make_data, tmp_path):
    lengths = {utt_id: (utt_id[:-1], 0.5) for utt_id in ("spk1a", "spk10a", "spk1b", "spk10b")}
    made = join(make_data(lengths), path=tmp_path / "out", most_sec=9.0)
    subset.save(made, [])
    assert {u.utt_id: u.speaker for u in datadir.read(tmp_path / "out").utterances} == {
        "spk10a-comb2": "spk10", "spk1a-comb2": "spk1"
    }  # fmt: skip
    assert [u.utt_id for u in made.utterances] == ["spk10a-comb2", "spk1a-comb2"]


def test_tasks_of_a_speaker_are_not_mixed(make_data, tmp_path):
    data = make_data(of_one(0.5, 0.5, 0.5))
    (data.path / "utt2task").write_text("a-0 car\na-1 phone\na-2 car\n")
    made = join(datadir.read(data.path), path=tmp_path / "out", most_sec=9.0)
    assert {u.utt_id: (u.task, u.text) for u in made.utterances} == {
        "a-0-comb2": ("car", "TEXT 0 TEXT 2"), "a-1": ("phone", "TEXT 1")
    }  # fmt: skip


def test_segments_become_recordings(make_data, tmp_path):
    data = make_data(of_one(2.0))
    (data.path / "segments").write_text("a-0 a-0 0.5 1.0\n")
    made = join(datadir.read(data.path), path=tmp_path / "out", most_sec=9.0)
    subset.save(made, [data])
    assert not (tmp_path / "out" / "segments").exists()
    assert seconds_of(datadir.read(tmp_path / "out")) == [0.5]


def test_recordings_are_brought_to_the_rate(make_data, tmp_path):
    made = join(make_data(of_one(0.5, 0.5)), path=tmp_path / "out", most_sec=9.0, rate_hz=16000)
    assert probe(made.recordings["a-0-comb2"]).rate_hz == 16000
    assert seconds_of(made) == [1.0]


def test_a_step_of_the_mean_leaves_no_click():
    noise = 1e-3 * torch.randn(2, 1600, generator=torch.Generator().manual_seed(1))
    joined = join_speech([noise[0] + 0.01, noise[1] - 0.01], rate_hz=16000)
    assert joined.diff()[1500:1700].abs().max() < noise.diff(dim=1).abs().max()


def test_a_tone_that_jumps_leaves_no_click():
    tone = 0.1 * torch.sin(torch.arange(1605) / 20)
    joined = join_speech([tone, tone], rate_hz=16000)
    assert tone[-1] - tone[0] == pytest.approx(-0.0996, abs=1e-3)  # what would be the jump
    assert joined.diff().abs().max() < 0.011  # the slope of the tone itself is 0.005, that of the fade 0.004


def test_away_from_the_seam_only_the_mean_changes():
    tone = 0.1 * torch.sin(torch.arange(1600) / 20) + 0.01
    joined = join_speech([tone, tone, tone], rate_hz=16000)
    inside = slice(80, 1520)  # 5 ms at 16 kHz fade
    for part in joined.split(1600):
        torch.testing.assert_close(part[inside], (tone - tone.mean())[inside])
    assert torch.equal(joined[:80], (tone - tone.mean())[:80])


def test_an_utterance_alone_keeps_its_samples(make_data, tmp_path):
    made = join(make_data(of_one(0.5), offset=0.01), path=tmp_path / "out", most_sec=9.0, rate_hz=8000)
    before, after = (
        read_audio(str(tmp_path / name), rate_hz=8000) for name in ("a-0.wav", "out/audio/a-0.wav")
    )
    assert made.recordings == {"a-0": str(tmp_path / "out" / "audio" / "a-0.wav")}
    torch.testing.assert_close(after, before, atol=2**-15, rtol=0)


def test_what_exceeds_full_scale_is_brought_down_as_a_whole(make_data, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        join(make_data(of_one(0.5), amplitude=2.0), path=tmp_path / "out", most_sec=9.0, rate_hz=8000)
    before, after = (
        read_audio(str(tmp_path / name), rate_hz=8000) for name in ("a-0.wav", "out/audio/a-0.wav")
    )
    assert "1 scaled down to full scale: a-0" in caplog.text
    torch.testing.assert_close(after, before / before.abs().max(), atol=2**-14, rtol=0)


def test_a_second_run_touches_no_audio(make_data, tmp_path):
    data = make_data(of_one(0.5, 0.5, 0.5))
    files = [(join(data, path=tmp_path / "out", most_sec=1.0), *times(tmp_path / "out")) for _ in range(2)]
    assert files[0] == files[1]
    assert len(files[0]) == 1 + 2


def times(path):
    return [(file.name, file.stat().st_mtime_ns) for file in sorted((path / "audio").iterdir())]


def test_a_run_that_failed_leaves_no_data_directory(make_data, tmp_path):
    data = make_data(of_one(0.5, 0.5))
    subset.save(join(data, path=tmp_path / "out", most_sec=1.0), [data])
    (tmp_path / "a-1.wav").write_bytes(b"")
    with pytest.raises(DataError, match=r"a-1\.wav: an empty file"):
        join(data, path=tmp_path / "out", most_sec=0.6)
    assert not (tmp_path / "out" / "wav.scp").exists()


@pytest.mark.parametrize("most_sec", [0.0, -1.0, float("nan"), float("inf")])
def test_a_length_that_cannot_be_is_refused(make_data, tmp_path, most_sec):
    with pytest.raises(ConfigError, match=rf"at most {most_sec:g} s"):
        join(make_data(of_one(0.5)), path=tmp_path / "out", most_sec=most_sec)


@pytest.mark.parametrize("name", ["data", "."])
def test_the_source_is_not_replaced(make_data, tmp_path, name):
    data = make_data(of_one(0.5))
    (tmp_path / "audio").mkdir()
    (tmp_path / "a-0.wav").rename(tmp_path / "audio" / "a-0.wav")
    write_table(data.path / "wav.scp", {"a-0": str(tmp_path / "audio" / "a-0.wav")})
    with pytest.raises(DataError, match="would overwrite the directory it is made from"):
        join(datadir.read(data.path), path=tmp_path / name, most_sec=9.0)
    assert (data.path / "wav.scp").exists()


def test_ids_that_are_paths_leave_the_recordings_there_as_they_are(make_data, tmp_path):
    utt_id = str(tmp_path / "one")
    data = make_data({utt_id: ("a", 0.5)})
    before = (tmp_path / "one.wav").read_bytes()
    made = join(data, path=tmp_path / "out", most_sec=1.0)
    assert (tmp_path / "one.wav").read_bytes() == before
    assert made.recordings[utt_id].startswith(f"{tmp_path}/out/audio/")
    assert seconds_of(made) == [0.5]


def test_two_joined_utterances_of_one_id_are_refused(make_data, tmp_path):
    lengths = {"a": ("a", 0.5), "a-b": ("a", 0.5), "a-comb2": ("a", 0.5)}
    with pytest.raises(DataError, match="two joined utterances would have the id a-comb2"):
        join(make_data(lengths), path=tmp_path / "out", most_sec=1.0)
