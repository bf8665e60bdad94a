"""Noises for training and testing, and the noisy test sets made with them."""

import pytest
import torch

from adaptkit.corpora.noise_sets import copy_tests, write_noise_lists
from adaptkit.errors import DataError
from adaptkit.kaldi.tables import read_table
from tests.fixtures.noises import UTTERANCES, make_noise, read_one, write_wav


def test_noises_are_divided_by_type(tmp_path):
    for name in ("rain.wav", "esc10/rain/1 a.flac", "esc10/sea/1.wav", "sea/1.wav", "pink.wav"):
        write_wav(tmp_path / "noise" / name, make_noise(100, 0))
    (tmp_path / "noise" / "LICENSE").touch()
    write_noise_lists(tmp_path / "noise", tmp_path, test_types=("rain",))
    train, test = (read_table(tmp_path / name / "wav.scp") for name in ("noise_train", "noise_test"))
    assert list(train) == ["esc10-sea-1", "pink", "sea-1"]
    places = {"esc10-rain-1_a": "esc10/rain/1 a.flac", "rain": "rain.wav"}
    assert test == {name: f"{tmp_path}/noise/{place}" for name, place in places.items()}


@pytest.mark.parametrize(("names", "seen"), [((), "none"), (("rain.wav",), "rain"), (("sea/1.wav",), "sea")])
def test_a_folder_for_one_list_alone_is_refused(tmp_path, names, seen):
    for name in names:
        write_wav(tmp_path / "noise" / name, make_noise(100, 0))
    with pytest.raises(DataError, match=f"noise: types {seen}, but some of rain are needed for tests"):
        write_noise_lists(tmp_path / "noise", tmp_path, test_types=("rain",))
    assert not (tmp_path / "noise_train").exists()


def test_noises_of_one_name_are_refused(tmp_path):
    for name in ("sea/1.wav", "sea/1.flac"):
        write_wav(tmp_path / name, make_noise(100, 0))
    with pytest.raises(DataError, match=r"sea/1\.wav: another recording has the name sea-1 too"):
        write_noise_lists(tmp_path, tmp_path / "data")


def test_a_test_set_has_the_same_noise_at_every_ratio(tones, noises, tmp_path):
    write_noise_lists(noises, tmp_path)
    copy_tests(tmp_path, ["data"])
    clean = read_one(tones, "spk1-a")
    loud, soft = (read_one(tmp_path / f"data_{snr_db}db", "spk1-a") - clean for snr_db in (5, 20))
    torch.testing.assert_close(loud, 10**0.75 * soft, atol=7 * 2**-15, rtol=0)  # a step, 5.6 times


def test_test_sets_hear_test_noises_alone_and_no_rooms(tones, noises, tmp_path):
    write_noise_lists(noises, tmp_path)
    copy_tests(tmp_path, ["data"])
    for snr_db in (20, 10, 5, 0):
        lines = read_table(tmp_path / f"data_{snr_db}db" / "utt2noise")
        assert lines == {utt_id: f"{snr_db}.00 {noises}/rain/a.wav -" for utt_id in UTTERANCES}
