"""Noise depends on an utterance's key and the recordings alone."""

import pickle
import random

import numpy as np
import pytest
import soundfile
import torch

from adaptkit.augment.noise import Noise, NoiseBank
from adaptkit.augment.rooms import make_response

RATE_HZ = 16000
SPEECH = torch.from_numpy(np.random.default_rng(9).normal(0, 0.1, 40000)).float()


@pytest.fixture
def write(tmp_path):
    """Write noise to a recording in a folder of the test, and give the folder."""

    def make(number, num_samples=30000, rate_hz=RATE_HZ):
        samples = np.random.default_rng(number).normal(0, 0.1, num_samples)
        soundfile.write(tmp_path / f"{number}.wav", samples, rate_hz)
        return tmp_path

    return make


@pytest.fixture
def noises(write):
    """Four recordings, three of another rate, and rooms for half of the utterances."""
    for number in range(4):
        folder = write(number, rate_hz=8000 if number else RATE_HZ)
    return NoiseBank(Noise(noises=(folder,), num_rooms=4, rt60_sec=(0.1, 0.2)), RATE_HZ)


@pytest.mark.parametrize(
    "anew", [lambda noises: NoiseBank(noises.options, RATE_HZ), lambda b: pickle.loads(pickle.dumps(b))]
)
def test_a_key_gives_the_same_bits_in_any_order_and_any_copy(noises, anew):
    first = {key: noises.perturb(SPEECH, key) for key in range(-3, 5)}
    other = anew(noises)
    for key in reversed(first):
        again = other.perturb(SPEECH, key)
        assert torch.equal(again.speech, first[key].speech)
        assert (again.noise, again.snr_db, again.room) == (
            first[key].noise,
            first[key].snr_db,
            first[key].room,
        )


def test_threads_change_no_bit(noises):
    num_threads, results = torch.get_num_threads(), []
    for number in (1, 2):
        torch.set_num_threads(number)
        results.append([noises.perturb(SPEECH, key).speech for key in range(8)])
    torch.set_num_threads(num_threads)
    assert all(map(torch.equal, *results))


def test_the_global_random_states_stay_as_they_were(noises):
    def states():
        return random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()

    before = states()
    make_response.cache_clear()
    for key in range(8):
        noises.perturb(SPEECH, key)
    assert states() == before


def test_keys_draw_other_recordings_ratios_and_rooms(noises):
    drawn = [noises.perturb(SPEECH, key) for key in (-4, *range(30), 2**63 - 1)]
    assert len({d.noise for d in drawn}) == 4
    assert len({d.room for d in drawn}) == 5  # four, or none
    assert len({d.snr_db for d in drawn}) == 32


def test_speech_itself_stays_as_it_was(noises):
    speech = SPEECH.clone()
    noises.perturb(speech, 1)
    assert torch.equal(speech, SPEECH)


def test_the_description_changes_with_recordings_and_options(noises, write):
    described = {noises.list_contents(), NoiseBank(noises.options, 8000).list_contents()}
    louder = noises.options.model_copy(update={"snr_db": (0.0, 20.0)})
    described.add(NoiseBank(louder, RATE_HZ).list_contents())
    write(0, 30001)  # one sample longer
    described.add(NoiseBank(noises.options, RATE_HZ).list_contents())
    write(9)
    described.add(NoiseBank(noises.options, RATE_HZ).list_contents())
    assert len(described) == 5
    assert NoiseBank(noises.options, RATE_HZ).list_contents() in described
