"""Simulated room responses: shoebox rooms by the image source method of pyroomacoustics.

Allen and Berkley, Image method for efficiently simulating small-room acoustics, 1979; Scheibler, Bezzam and
Dokmanic, Pyroomacoustics, 2018, arXiv:1710.04196. The sizes are ours: living rooms and offices, high enough
that the decay does not have two slopes.
"""

import functools
from dataclasses import dataclass
from itertools import combinations
from math import ceil, dist, exp, hypot, log, prod
from random import Random

import numpy as np

MOST_ROOMS = 1000  # kept in memory, 80 MB at 16 kHz and 0.6 s
SIDES_M = ((3.0, 6.0), (3.0, 5.0), (2.5, 3.5))  # shortest and longest; the last is the height
WALL_M = 0.5  # smallest distance of speaker and microphone from a wall
SPEED = 343.0  # of sound in m/s; pyroomacoustics' default
SLOWNESS = 1.15  # decay time relative to Eyring's diffuse field; median of 40 rooms, from 0.1 to 0.6 s
REACH = 0.6  # of the reverberation time: reflections are complete down to -36 dB, at a fifth of the cost


@dataclass(frozen=True)
class Response:
    """The impulse response of a room."""

    samples: np.ndarray  # (L,)
    direct: int  # the sample at which the direct path arrives


@functools.lru_cache(maxsize=MOST_ROOMS)
def make_response(number: int, rt60_sec: tuple[float, float], rate_hz: int) -> Response:
    """Simulate room `number`: its dimensions, positions and reverberation time follow from the number.

    The reverberation time is drawn between two limits in seconds; the time measured on the response is within
    about 20 % of it, as the decay also depends on the positions. Simulation takes up to 0.1 s for a
    reverberation time of 0.6 s, and 0.4 s for 1 s.
    """
    import pyroomacoustics  # takes 3 s, which training without noise avoids

    pyroomacoustics.constants.set("num_threads", 1)  # the last bits of its sums depend on it
    rng = Random(number)
    seconds = rng.uniform(*rt60_sec)
    sides = [rng.uniform(*limits) for limits in SIDES_M]
    speaker, microphone = ([rng.uniform(WALL_M, side - WALL_M) for side in sides] for _ in range(2))
    walls = pyroomacoustics.Material(absorption(sides, seconds))
    order = ceil(REACH * seconds * SPEED / min(a * b / hypot(a, b) for a, b in combinations(sides, 2)))
    room = pyroomacoustics.ShoeBox(sides, fs=rate_hz, materials=walls, max_order=order)
    room.add_source(speaker).add_microphone(microphone)
    room.compute_rir()
    delay = pyroomacoustics.constants.get("frac_delay_length") // 2  # of its filters, in samples
    direct = delay + round(dist(speaker, microphone) / SPEED * rate_hz)
    return Response(room.rir[0][0][: direct + round(seconds * rate_hz)].copy(), direct)


def absorption(sides: list[float], seconds: float) -> float:
    """Return the energy absorption of a shoebox's walls for a reverberation time, by Eyring's formula.

    It stays below 1 however short the time is, unlike Sabine's formula, which pyroomacoustics uses.
    """
    surface = 2 * sum(a * b for a, b in combinations(sides, 2))
    return 1 - exp(-SLOWNESS * 24 * log(10) * prod(sides) / (SPEED * surface * seconds))
