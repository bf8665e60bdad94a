"""Noise at the ratio drawn, by subtraction where speech is known by hand; rooms by the click they echo."""

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from adaptkit import config
from adaptkit.augment.noise import Noise, NoiseBank, active_samples
from adaptkit.errors import ConfigError, DataError

ROOT = Path(__file__).parents[2]
REAL = Path(os.environ.get("ADAPTKIT_DATA", ROOT.parent / "shared" / "data")) / "noise"
RATE_HZ = 16000
IS_SPOKEN = np.tile(np.repeat([False, True], [6400, 4800]), 3)  # bursts of 0.3 s after pauses of 0.4 s


def white(num_samples, seed=0, level=0.1):
    return np.random.default_rng(seed).normal(0, level, num_samples)


def ticks(num_samples):
    """A clock: 5 ms of noise every second, and hardly anything between."""
    is_tick = np.arange(num_samples) % RATE_HZ < 80
    return np.where(is_tick, white(num_samples, level=0.3), white(num_samples, level=1e-4))


def barks(num_samples):
    """One sound in the digital silence that fills a clip."""
    return np.where(np.arange(num_samples) // 1600 == 30, white(num_samples), 0)


SPEECH = torch.from_numpy(np.where(IS_SPOKEN, white(len(IS_SPOKEN), seed=1), 1e-5)).float()
SOUNDS = {"white": white, "ticks": ticks, "barks": barks}


@pytest.fixture
def write(tmp_path):
    """Write samples to a recording in a folder of the test, `noise` unless told, and give the folder."""

    def make(samples, name="noise/a.wav", rate_hz=RATE_HZ, subtype="FLOAT"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, samples, rate_hz, subtype=subtype)
        return path.parent

    return make


def bank_of(folder, rate_hz=RATE_HZ, **options):
    return NoiseBank(Noise(noises=(folder,), **{"room_share": 0, **options}), rate_hz)


def added(bank, key, speech=SPEECH):
    """What was added to the speech, in float64."""
    return (bank.perturb(speech, key).speech.double() - speech.double()).numpy()


def level_db(samples):
    return 10 * np.log10(np.square(samples).mean())


def test_speech_is_active_and_the_pauses_around_it_are_not():
    assert np.array_equal(active_samples(SPEECH, RATE_HZ), IS_SPOKEN)


@pytest.mark.parametrize(("level", "expected"), [(0.115, True), (0.113, False)])
def test_a_frame_is_active_while_the_mean_is_15_9_db_above_it(level, expected):
    speech = torch.cat(
        [torch.ones(20), torch.full((20,), level)]
    )  # limit: sqrt(1 / (2 * 10**1.59 - 1)) = 0.1141
    active = active_samples(speech, rate_hz=1000)
    assert active[:20].all()
    assert active[20:].tolist() == [expected] * 20


def test_the_last_shorter_frame_counts_by_its_own_mean():
    speech = torch.cat([torch.zeros(40), torch.full((10,), 0.5)])
    assert active_samples(speech, rate_hz=1000).tolist() == [False] * 40 + [True] * 10


@pytest.mark.parametrize(
    "speech", [torch.zeros(50), torch.ones(50), torch.from_numpy(white(50)), torch.ones(0)]
)
def test_steady_speech_is_active_throughout(speech):
    assert active_samples(speech, rate_hz=1000).tolist() == [True] * len(speech)


@pytest.mark.parametrize("snr_db", [-5, 0, 17.5, 30])
@pytest.mark.parametrize("sound", SOUNDS)
def test_the_ratio_over_the_speech_is_the_one_asked_for(write, sound, snr_db):
    bank = bank_of(write(SOUNDS[sound](5 * RATE_HZ)), snr_db=(snr_db, snr_db))
    for key in range(5):
        noise = added(bank, key)
        measured = level_db(SPEECH.double().numpy()[IS_SPOKEN]) - level_db(noise[IS_SPOKEN])
        assert measured == pytest.approx(snr_db, abs=0.01)


@pytest.mark.corpora
@pytest.mark.skipif(not REAL.is_dir(), reason="no noise below ADAPTKIT_DATA or ../shared/data")
def test_the_ratio_is_true_with_real_noise():
    bank, names = bank_of(REAL), set()
    for key in range(60):
        noisy = bank.perturb(SPEECH, key)
        noise = (noisy.speech - SPEECH).double().numpy()
        measured = level_db(SPEECH.double().numpy()[IS_SPOKEN]) - level_db(noise[IS_SPOKEN])
        assert measured == pytest.approx(noisy.snr_db, abs=0.05)
        names.add(Path(noisy.noise).parent.name)
    assert "clock_tick" in names


def test_ratios_are_uniform_between_their_limits(write):
    bank, speech = bank_of(write(white(RATE_HZ)), snr_db=(5, 20)), SPEECH[6400:8000]
    drawn = np.sort([bank.perturb(speech, key).snr_db for key in range(400)])
    distance = np.abs((drawn - 5) / 15 - (np.arange(400) + 0.5) / 400).max()
    assert distance < 1.63 / np.sqrt(400)  # Kolmogorov and Smirnov, 1 %


def test_noise_is_one_stretch_of_a_longer_recording(write):
    recording = white(10 * RATE_HZ, seed=5)
    bank = bank_of(write(recording))
    places = set()
    for key in range(4):
        noise = added(bank, key)
        place = int(np.correlate(recording, noise[:4000]).argmax())
        stretch = recording[place : place + len(noise)]
        gain = noise.std() / stretch.std()
        np.testing.assert_allclose(noise, gain * stretch, atol=1e-6)
        places.add(place)
    assert len(places) == 4


def test_a_shorter_recording_goes_on_from_its_start(write):
    recording = white(7000, seed=5)
    noise = added(bank_of(write(recording)), key=3)
    np.testing.assert_allclose(noise[7000:], noise[:-7000], atol=1e-6)
    start = int(np.correlate(np.tile(recording, 2), noise[:7000]).argmax())
    gain = noise[:7000].std() / recording.std()
    np.testing.assert_allclose(noise[:7000], gain * np.roll(recording, -start), atol=1e-6)


def test_a_shorter_recording_begins_anywhere(write):
    bank = bank_of(write(np.linspace(0.1, 0.2, 7000)))
    ends = {int(added(bank, key)[:7000].argmax()) for key in range(5)}
    assert len(ends) == 5


@pytest.mark.parametrize("seconds", [0.5, 3, 10])
@pytest.mark.parametrize("rate_hz", [8000, 44100])
def test_a_recording_of_another_rate_keeps_its_pitch(write, rate_hz, seconds):
    tone = 0.1 * np.sin(2 * np.pi * 440 * np.arange(int(rate_hz * seconds)) / rate_hz)
    bank, speech = (
        bank_of(write(tone, rate_hz=rate_hz)),
        SPEECH[1:],
    )  # 33599, of which 8 kHz has no whole number
    for key in range(4):
        spectrum = np.abs(np.fft.rfft(added(bank, key, speech)))
        assert spectrum.argmax() * RATE_HZ / len(speech) == pytest.approx(440, abs=1)


@pytest.mark.parametrize("sound", ["ticks", "barks"])
def test_what_sounds_in_pauses_alone_is_not_raised_without_bound(write, sound):
    bank = bank_of(write(SOUNDS[sound](20 * RATE_HZ)))
    for key in range(20):
        noise = added(bank, key)
        assert level_db(noise) - level_db(noise[IS_SPOKEN]) < 20.1


def test_a_sound_between_long_silences_is_found(write):
    recording = np.zeros(60 * RATE_HZ)
    recording[400_000:400_080] = white(80)
    assert all(np.abs(added(bank_of(write(recording)), key)[IS_SPOKEN]).max() > 0 for key in range(3))


@pytest.mark.parametrize("num_samples", [1000, 50000])
def test_a_recording_of_digital_silence_is_named(write, num_samples):
    with pytest.raises(DataError, match=r"noise/a\.wav: nothing but digital silence; drop it"):
        bank_of(write(np.zeros(num_samples))).perturb(SPEECH, 0)


def test_another_noise_stands_in_for_one_of_digital_silence(write, caplog):
    write(np.zeros(RATE_HZ), "noise/silent.wav")
    bank = bank_of(write(white(RATE_HZ)))
    assert {Path(bank.perturb(SPEECH, key).noise).stem for key in range(20)} == {"a"}
    assert caplog.text.count("silent.wav: nothing but digital silence; other noises are used") == 1


@pytest.mark.parametrize("num_samples", [0, 400])
def test_digital_silence_stays_as_it_is(write, num_samples):
    made = bank_of(write(white(RATE_HZ))).perturb(torch.zeros(num_samples), 0)
    assert torch.equal(made.speech, torch.zeros(num_samples))
    assert (made.noise, made.room, made.snr_db) == ("", "", float("inf"))


def test_loud_speech_and_noise_are_not_clipped(write):
    bank = bank_of(write(white(RATE_HZ)), snr_db=(-20, -20))
    noisy = bank.perturb(5 * SPEECH, 0)
    assert noisy.speech.abs().max() > 2
    assert noisy.speech.dtype == torch.float32


def test_a_recorded_room_echoes_a_click_and_leaves_it_in_time(write):
    response = np.zeros(8000)
    response[[300, 700]] = 0.8, -0.4  # the echo comes 400 samples after, beyond the 320 of the active frame
    folder = write(white(RATE_HZ))
    bank = bank_of(folder, snr_db=(100, 100), room_share=1, rooms=(write(response, "rooms/r.wav"),))
    click = torch.zeros(4000)
    click[1000] = 0.5
    heard = bank.perturb(click, 0)
    assert heard.room.endswith("rooms/r.wav")
    expected = torch.zeros(4000)
    expected[[1000, 1400]] = torch.tensor([0.5, -0.25])
    torch.testing.assert_close(heard.speech, expected, atol=1e-4, rtol=0)


def test_a_click_in_generated_rooms_is_first_heard_in_time(write):
    bank = bank_of(write(white(RATE_HZ)), snr_db=(100, 100), room_share=1, num_rooms=5, rt60_sec=(0.1, 0.2))
    click = torch.zeros(8000)
    click[3000] = 0.5
    for key in range(8):
        heard = bank.perturb(click, key)
        first = int((heard.speech.abs() > 0.4 * heard.speech.abs().max()).nonzero()[0])
        assert heard.room.startswith("generated/")
        assert abs(first - 3000) <= 1


def test_rooms_keep_the_level_and_the_length_of_speech(write):
    bank = bank_of(write(white(RATE_HZ)), snr_db=(100, 100), room_share=1, num_rooms=4, rt60_sec=(0.1, 0.3))
    for key in range(5):
        heard = bank.perturb(SPEECH, key).speech
        assert heard.shape == SPEECH.shape
        assert level_db(heard.numpy()[IS_SPOKEN]) == pytest.approx(
            level_db(SPEECH.numpy()[IS_SPOKEN]), abs=0.01
        )
        assert level_db(heard.numpy()[~IS_SPOKEN]) > -60  # it reverberates into the pauses


def test_the_ratio_is_that_of_reverberant_speech_to_noise(write):
    folder, rooms = write(white(RATE_HZ)), {"room_share": 1, "num_rooms": 3, "rt60_sec": (0.1, 0.2)}
    heard = bank_of(folder, snr_db=(100, 100), **rooms).perturb(SPEECH, 4).speech.numpy()
    noisy = bank_of(folder, snr_db=(10, 10), **rooms).perturb(SPEECH, 4).speech.numpy()
    measured = level_db(heard[IS_SPOKEN]) - level_db((noisy - heard)[IS_SPOKEN])
    assert measured == pytest.approx(10, abs=0.01)


def test_the_share_in_rooms_is_the_one_asked_for(write):
    response = np.eye(1, 10)[0]
    bank = bank_of(write(white(RATE_HZ)), room_share=0.3, rooms=(write(response, "rooms/r.wav"),))
    in_rooms = sum(bool(bank.perturb(SPEECH[6400:8000], key).room) for key in range(300))
    assert abs(in_rooms - 90) < 3 * np.sqrt(300 * 0.3 * 0.7)


def test_a_room_response_of_zeros_is_named(write):
    rooms = (write(np.zeros(100), "rooms/r.wav"),)
    bank = bank_of(write(white(RATE_HZ)), room_share=1, rooms=rooms)
    with pytest.raises(DataError, match=r"r\.wav: a room response of zeros"):
        bank.perturb(SPEECH, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"noises": []}, "noises: .*at least 1 item"),
        ({"snr_db": [5, 0]}, "snr_db: the lower limit 5 is above the upper one 0"),
        ({"snr_db": [0, 200]}, "snr_db.1: .*less than or equal to 100"),
        ({"snr_db": [0, float("inf")]}, "snr_db.1: .*a finite number"),
        ({"snr_db": [float("nan"), 0]}, "snr_db.0: "),
        ({"rt60_sec": [0, 0.3]}, "rt60_sec.0: .*greater than or equal to 0.1"),
        ({"rt60_sec": [0.5, 0.2]}, "rt60_sec: the lower limit 0.5 is above"),
        ({"room_share": 1.5}, "room_share: "),
        ({"num_rooms": 0}, "num_rooms: "),
        ({"snr": [0, 10]}, "snr: unknown key; did you mean 'snr_db'"),
    ],
)
def test_options_without_sense_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        config.check(Noise, {"noises": ["noise"], **options}, "policy")


def test_noise_needs_recordings_even_where_there_are_rooms():
    with pytest.raises(ConfigError, match="noises: missing"):
        config.check(Noise, {"room_share": 1}, "policy")
