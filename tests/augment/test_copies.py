import logging

import numpy as np
import pytest

from adaptkit.augment.copies import Copies, copy
from adaptkit.augment.noise import Noise, active_samples
from adaptkit.config import write_yaml
from adaptkit.errors import ConfigError, DataError
from adaptkit.kaldi import datadir
from adaptkit.kaldi.audio import read_audio
from adaptkit.kaldi.copied import RECORD
from adaptkit.kaldi.tables import read_table
from adaptkit.kaldi.validate import find_problems
from tests.fixtures.noises import UTTERANCES, make_noise, read_one, write_wav

BOTH_TIMES = [f"{utt_id}-noisy{number}" for utt_id in ("spk1-a", "spk1-b", "spk10-a") for number in (1, 2)]
IN_PLACE = Copies(with_clean=False)


@pytest.fixture
def at_ten(noises):
    return Noise(noises=(noises,), snr_db=(10, 10), room_share=0.0)


def content(path):
    """Every file, when it was written, and what it holds."""
    files = (file for file in sorted(path.rglob("*")) if file.is_file())
    return {str(file.relative_to(path)): (file.stat().st_mtime_ns, file.read_bytes()) for file in files}


def audio(path):
    return {name: held for name, (_, held) in content(path).items() if name.endswith(".wav")}


def test_a_copy_in_the_place_of_the_clean_one_keeps_its_id_and_what_belongs_to_it(tones, at_ten, tmp_path):
    copy(tones, tmp_path / "out", at_ten, IN_PLACE)
    before, after = (datadir.read(path).utterances for path in (tones, tmp_path / "out"))
    assert before == after
    assert find_problems(tmp_path / "out") == []


def test_copies_stand_beside_the_clean_ones_which_keep_their_recordings(tones, at_ten, tmp_path):
    copy(tones, tmp_path / "out", at_ten, Copies(2))
    read, clean = datadir.read(tmp_path / "out"), datadir.read(tones)
    assert [u.utt_id for u in read.utterances] == sorted([*UTTERANCES, *BOTH_TIMES], key=str.encode)
    assert clean.recordings.items() <= read.recordings.items()
    whose = {(u.speaker, u.task, u.group) for u in read.utterances}
    assert whose == {("spk1", "car", "child"), ("spk10", "car", "child")}
    assert find_problems(tmp_path / "out") == []


def test_several_copies_without_the_clean_ones_are_told_apart(tones, at_ten, tmp_path):
    made = copy(tones, tmp_path / "out", at_ten, Copies(2, with_clean=False))
    assert [u.utt_id for u in made.utterances] == BOTH_TIMES
    assert len(set(audio(tmp_path / "out").values())) == 6


def test_the_ratio_in_the_table_is_that_of_the_audio(tones, noises, tmp_path):
    noise = Noise(noises=(noises,), snr_db=(0, 20), room_share=0.0)
    copy(tones, tmp_path / "out", noise, IN_PLACE)
    for utt_id, line in read_table(tmp_path / "out" / "utt2noise").items():
        clean, noisy = (read_one(path, utt_id).double() for path in (tones, tmp_path / "out"))
        active = active_samples(clean, 16000)
        ratio = clean[active].square().mean() / (noisy - clean)[active].square().mean()
        assert 10 * ratio.log10() == pytest.approx(float(line.split()[0]), abs=0.2)


def test_the_table_names_noise_and_room_of_the_noisy_ones_alone(tones, noises, tmp_path):
    for room_share, room in ((0.0, "-"), (1.0, "generated/0")):
        noise = Noise(noises=(noises / "rain",), snr_db=(5, 5), room_share=room_share, num_rooms=1)
        copy(tones, tmp_path / room, noise)
        assert read_table(tmp_path / room / "utt2noise") == {
            f"{utt_id}-noisy1": f"5.00 {noises}/rain/a.wav {room}" for utt_id in UTTERANCES
        }


def test_an_utterance_is_the_same_whatever_else_is_copied(tones, at_ten, tmp_path):
    copy(tones, tmp_path / "all", at_ten, Copies(2))
    for name in ("text", "utt2spk", "utt2task", "utt2group", "wav.scp"):
        lines = (tones / name).read_text().splitlines(keepends=True)
        (tones / name).write_text("".join(line for line in lines if line.startswith("spk10-a ")))
    copy(tones, tmp_path / "one", at_ten, Copies(2))
    assert audio(tmp_path / "one").items() <= audio(tmp_path / "all").items()


def test_another_seed_draws_other_noise(tones, at_ten, tmp_path):
    for seed in (1, 2):
        copy(tones, tmp_path / str(seed), at_ten, Copies(with_clean=False, seed=seed))
    one, other = audio(tmp_path / "1"), audio(tmp_path / "2")
    assert all(one[name] != other[name] for name in one)


def test_a_copy_beyond_full_scale_is_brought_down_as_a_whole(tones, noises, tmp_path, caplog):
    noise = Noise(noises=(noises,), snr_db=(-20, -20), room_share=0.0)
    with caplog.at_level(logging.INFO):
        copy(tones, tmp_path / "out", noise, IN_PLACE)
    assert "3 of all scaled down to full scale" in caplog.text
    peaks = [read_one(tmp_path / "out", utt_id).abs() for utt_id in UTTERANCES]
    assert [float(peak.max()) for peak in peaks] == [32767 / 32768] * 3
    assert all((peak > 0.999).sum() == 1 for peak in peaks)  # nothing is clipped


def test_segments_are_copied_without_the_rest_of_their_recording(tones, at_ten, tmp_path):
    (tones / "segments").write_text("".join(f"{utt_id} {utt_id} 0.1 0.35\n" for utt_id in sorted(UTTERANCES)))
    copy(tones, tmp_path / "out", at_ten)
    read = datadir.read(tmp_path / "out")
    assert {u.end_sec for u in read.utterances} == {0.35, None}
    assert len(read_audio(read.recordings["spk1-a-noisy1"], rate_hz=16000)) == 4000
    assert find_problems(tmp_path / "out") == []


def test_a_second_run_touches_no_file(tones, at_ten, tmp_path):
    copy(tones, tmp_path / "out", at_ten, Copies(2))
    before = content(tmp_path / "out")
    copy(tones, tmp_path / "out", at_ten, Copies(2))
    assert content(tmp_path / "out") == before


@pytest.mark.parametrize("cut", [0, 40])
def test_a_killed_run_goes_on_where_it_stopped(tones, at_ten, tmp_path, cut):
    copy(tones, tmp_path / "out", at_ten)
    whole, record = content(tmp_path / "out"), tmp_path / "out" / RECORD
    first, rest = record.read_text().split("\n", 1)
    record.write_text(f"{first}\n{rest[:cut]}")  # killed while it wrote the second line
    for name in ("wav.scp", "text", "audio/spk1-b-noisy1.wav"):
        (tmp_path / "out" / name).unlink()
    copy(tones, tmp_path / "out", at_ten)
    after = content(tmp_path / "out")
    assert {name: held for name, (_, held) in after.items()} == {
        name: held for name, (_, held) in whole.items()
    }
    assert after["audio/spk1-a-noisy1.wav"] == whole["audio/spk1-a-noisy1.wav"]  # the first was kept


def test_a_run_that_fails_leaves_no_data_directory(tones, at_ten, tmp_path):
    copy(tones, tmp_path / "out", at_ten)
    (tmp_path / "clean" / "spk10-a.wav").write_bytes(b"RIFF")
    with pytest.raises(DataError, match="spk10-a: .*not audio"):
        copy(tones, tmp_path / "out", at_ten)
    assert not (tmp_path / "out" / "wav.scp").exists()


def test_digital_silence_is_copied_without_noise_and_counted(tones, at_ten, tmp_path, caplog):
    write_wav(tmp_path / "clean" / "spk10-a.wav", np.zeros(8000))
    copy(tones, tmp_path / "out", at_ten)
    assert "1 are digital silence, which has no SNR, and were copied without noise: spk10-a-" in caplog.text
    assert read_table(tmp_path / "out" / "utt2noise")["spk10-a-noisy1"] == "inf - -"
    assert not read_one(tmp_path / "out", "spk10-a-noisy1").any()
    before = content(tmp_path / "out")
    copy(tones, tmp_path / "out", at_ten)
    assert content(tmp_path / "out") == before


def test_what_is_made_of_something_else_is_made_again(tones, at_ten, tmp_path):
    copy(tones, tmp_path / "out", at_ten)
    before = content(tmp_path / "out")
    write_wav(tmp_path / "clean" / "spk10-a.wav", make_noise(8000, 3))
    copy(tones, tmp_path / "out", at_ten)
    changed = {name for name, held in content(tmp_path / "out").items() if held != before[name]}
    assert {name for name in changed if name.endswith(".wav")} == {"audio/spk10-a-noisy1.wav"}
    assert find_problems(tmp_path / "out") == []


def test_copies_are_made_again_of_a_noise_that_changed_but_not_its_length(tones, noises, tmp_path):
    policy, hum = Noise(noises=(noises,), snr_db=(10, 10), room_share=0.0), make_noise(8000, 0)
    for file in noises.rglob("*.wav"):
        write_wav(file, hum)
    copy(tones, tmp_path / "out", policy)
    before = audio(tmp_path / "out")
    for file in noises.rglob("*.wav"):
        write_wav(file, -hum)
    copy(tones, tmp_path / "out", policy)
    assert all(held != before[name] for name, held in audio(tmp_path / "out").items())


def test_a_file_that_was_cut_is_made_again(tones, at_ten, tmp_path):
    copy(tones, tmp_path / "out", at_ten)
    whole, spoilt = audio(tmp_path / "out"), tmp_path / "out" / "audio" / "spk1-a-noisy1.wav"
    spoilt.write_bytes(spoilt.read_bytes()[:100])
    copy(tones, tmp_path / "out", at_ten)
    assert audio(tmp_path / "out") == whole


def test_other_options_give_other_copies_in_the_same_folder(tones, at_ten, tmp_path):
    copy(tones, tmp_path / "out", at_ten, Copies(2))
    copy(tones, tmp_path / "out", at_ten.model_copy(update={"snr_db": (0, 0)}), IN_PLACE)
    assert [u.utt_id for u in datadir.read(tmp_path / "out").utterances] == sorted(UTTERANCES, key=str.encode)
    table = read_table(tmp_path / "out" / "utt2noise")
    assert [line.split()[0] for line in table.values()] == ["0.00"] * 3


def test_the_source_is_not_replaced(tones, at_ten):
    with pytest.raises(DataError, match="would overwrite the directory it is made from"):
        copy(tones, tones, at_ten)


def test_ids_that_clash_are_refused_before_any_audio_is_made(tones, at_ten, tmp_path):
    copy(tones, tmp_path / "once", at_ten)
    with pytest.raises(DataError, match=r"conflicting recordings: spk1-a-noisy1 \("):
        copy(tmp_path / "once", tmp_path / "twice", at_ten)
    assert not (tmp_path / "twice").exists()


def test_no_copies_are_refused():
    with pytest.raises(ConfigError, match="0 noisy copies of each utterance"):
        Copies(0)


@pytest.fixture
def run(adaptkit, tmp_path, noises):
    """Run `adaptkit augment copy` with a policy of rooms."""
    write_yaml(tmp_path / "policy.yaml", {"noise": {"noises": [str(noises)]}})

    return lambda *words: adaptkit("augment", "copy", *words, "--policy", tmp_path / "policy.yaml")


def test_the_command_makes_a_noisy_test_set(run, tones, tmp_path):
    done = run(tones, tmp_path / "out", "--set", "noise.snr_db=[3,3]", "--set", "noise.room_share=0",
               "--without-clean")  # fmt: skip
    assert done.stdout == f"{tmp_path}/out: 3 utterances\n"
    lines = read_table(tmp_path / "out" / "utt2noise").values()
    assert {(line.split()[0], line.split()[2]) for line in lines} == {("3.00", "-")}


def test_the_command_makes_several_copies_of_a_seed_and_rate(run, tones, noises, tmp_path):
    run(tones, tmp_path / "out", "--copies", 2, "--seed", 7, "--rate", 8000, "--set", "noise.snr_db=[3,3]")
    copy(tones, tmp_path / "again", Noise(noises=(noises,), snr_db=(3, 3)), Copies(2, seed=7), rate_hz=8000)
    assert audio(tmp_path / "out") == audio(tmp_path / "again")


def test_the_command_needs_a_policy_with_noise(run, tones, tmp_path):
    done = run(tones, tmp_path / "out", "--set", "noise=null")
    assert isinstance(done.error, ConfigError)
    assert "has no noise; add some with --set noise.noises=" in done.stderr
