"""Plain WAV files, as in nearly all corpora, opened without libsndfile, which takes 20 times as long.

They consist of RIFF chunks with uncompressed integer samples, with sizes that agree with each other and with
the file. All other files are left to `recording`, which reports their faults.
"""

import os
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from adaptkit.kaldi.headers import PLAUSIBLE_HZ

_HEAD_BYTES = 1024
_PCM = 1  # the format tag in the chunk `fmt `


@dataclass(frozen=True)
class PlainWav:
    """The header of a plain WAV file."""

    rate_hz: int
    num_samples: int  # of each channel
    num_channels: int
    sample_bytes: int
    offset: int  # of the first sample in the file


def read_plain(location: str) -> PlainWav | None:
    """Read the header of a plain WAV file; None if it is not one or does not exist."""
    try:
        descriptor = os.open(location, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError):
        return None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return None
        return _parse(os.read(descriptor, _HEAD_BYTES), status.st_size)
    except OSError:
        return None
    finally:
        os.close(descriptor)


def blocks_of_16_bits(location: str, wav: PlainWav, most_samples: int) -> Iterator[np.ndarray]:
    """Yield the samples of a plain WAV file with one channel of 16 bits, some at a time."""
    with open(location, "rb") as file:
        file.seek(wav.offset)
        for first in range(0, wav.num_samples, most_samples):
            yield np.fromfile(file, "<i2", min(most_samples, wav.num_samples - first))


def _parse(head: bytes, num_bytes: int) -> PlainWav | None:
    """Parse the chunks before the samples, which must be the last one."""
    if head[:4] != b"RIFF" or head[8:12] != b"WAVE" or int.from_bytes(head[4:8], "little") + 8 != num_bytes:
        return None
    place, layout = 12, None
    while place + 8 <= len(head):
        name, size = head[place : place + 4], int.from_bytes(head[place + 4 : place + 8], "little")
        place += 8
        if name == b"data":
            is_last = place + size + size % 2 == num_bytes
            return _checked(layout, size, place) if layout and is_last else None
        if name == b"fmt " and size >= 16 and place + 16 <= len(head):
            layout = struct.unpack_from("<HHIIHH", head, place)
        place += size + size % 2
    return None


def _checked(layout: tuple[int, ...], size: int, offset: int) -> PlainWav | None:
    tag, channels, rate_hz, rate_bytes, frame_bytes, bits = layout
    width = bits // 8
    is_plain = tag == _PCM and bits in (8, 16, 24, 32) and channels > 0
    agrees = frame_bytes == channels * width and rate_bytes == rate_hz * frame_bytes
    lowest_hz, highest_hz = PLAUSIBLE_HZ
    if not (is_plain and agrees and lowest_hz <= rate_hz <= highest_hz and size and size % frame_bytes == 0):
        return None
    return PlainWav(rate_hz, size // frame_bytes, channels, width, offset)
