"""Generated rooms: their decay by Schroeder's integral, their direct path, the same bits each time."""

import numpy as np
import pytest

from adaptkit.augment.rooms import absorption, make_response


def decay_sec(response, rate_hz):
    """Measure the time of 60 dB on Schroeder's backward integral, from its slope between -5 and -25 dB."""
    level = 10 * np.log10(np.cumsum(np.square(response)[::-1])[::-1])
    first, last = (int(np.argmax(level <= level[0] - drop)) for drop in (5, 25))
    return -60 / np.polyfit(np.arange(first, last) / rate_hz, level[first:last], 1)[0]


@pytest.mark.parametrize("rate_hz", [8000, 16000])
@pytest.mark.parametrize("seconds", [0.1, 0.2, 0.4, 0.6])
def test_sound_decays_in_about_the_time_asked_for(seconds, rate_hz):
    responses = [make_response(number, (seconds, seconds), rate_hz).samples for number in range(5)]
    measured = np.array([decay_sec(response, rate_hz) for response in responses])
    assert (abs(measured / seconds - 1) < 0.3).all()
    assert abs(measured.mean() / seconds - 1) < 0.12


@pytest.mark.parametrize("number", range(20))
def test_nothing_is_heard_before_the_direct_path(number):
    response = make_response(number, (0.1, 0.3), 16000)
    before, around = np.split(np.abs(response.samples), [response.direct - 2])
    assert around[:5].max() > 3 * before.max()


def test_responses_end_when_the_sound_has_decayed():
    response = make_response(3, (0.25, 0.25), 16000)
    assert len(response.samples) == response.direct + 4000


def test_a_room_has_the_same_bits_whenever_it_is_made():
    first = make_response(7, (0.1, 0.3), 16000).samples
    make_response(8, (0.1, 0.3), 16000)
    make_response.cache_clear()
    assert np.array_equal(make_response(7, (0.1, 0.3), 16000).samples, first)


def test_rooms_of_two_numbers_differ():
    one, other = (make_response(number, (0.2, 0.2), 16000) for number in (0, 1))
    assert one.direct != other.direct


def test_rooms_reverberate_between_the_two_limits():
    measured = [decay_sec(make_response(number, (0.1, 0.3), 16000).samples, 16000) for number in range(20)]
    assert 0.07 < min(measured) < 0.15
    assert 0.25 < max(measured) < 0.39


def test_absorption_is_that_of_eyring():
    sides, share = [4.0, 4.0, 3.0], 1 - np.exp(-0.161 * 48 / (80 * 0.5))  # 48 m3, 80 m2
    assert absorption(sides, 0.5 * 1.15) == pytest.approx(share, rel=0.002)  # 0.161 is rounded


def test_no_time_is_too_short_for_a_large_room():
    assert 0.99 < absorption([20.0, 20.0, 10.0], 0.1) < 1
