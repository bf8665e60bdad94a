"""Find the end of FLAC frames without relying on the header (RFC 9639)."""

import os
import re
from collections.abc import Iterator
from typing import BinaryIO

_TAIL_BYTES = 1 << 17  # several frames; 4096 samples of 16 bits take at most 8 kB a channel
_SYNC = re.compile(rb"\xff[\xf8\xf9]")
_MOST_HEADER_BYTES = 16


def _crc8_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = (byte << 1 ^ (0x07 if byte & 0x80 else 0)) & 0xFF
        table.append(byte)
    return tuple(table)


_CRC8 = _crc8_table()


def find_end(file: BinaryIO) -> int | None:
    """Return the number of samples up to the end of the last frame; None if no two frames are found.

    A random pattern may look like a frame, but hardly like one that begins where another ended.
    """
    file.seek(8)
    block_size = int.from_bytes(file.read(4)[2:], "big")  # the largest; if fixed, that of all blocks
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _TAIL_BYTES))
    ends, last = set(), None
    for first, num_samples in _frames(file.read(_TAIL_BYTES) + bytes(_MOST_HEADER_BYTES), block_size):
        if first in ends:
            last = first + num_samples
        ends.add(first + num_samples)
    return last


def _frames(content: bytes, block_size: int) -> Iterator[tuple[int, int]]:
    """Yield the first sample and the number of samples of each frame header."""
    for match in _SYNC.finditer(content):
        head = content[match.start() : match.start() + _MOST_HEADER_BYTES]
        header = _parse(head, block_size)
        if header is not None:
            yield header


def _parse(head: bytes, block_size: int) -> tuple[int, int] | None:
    if len(head) < _MOST_HEADER_BYTES or head[3] & 1:
        return None
    extra = 8 - (head[4] ^ 0xFF).bit_length()  # leading ones in the first byte of the coded number
    extra = max(0, extra - 1) if extra != 1 else -1
    size_code, rate_code = head[2] >> 4, head[2] & 15
    at = 5 + extra
    size_bytes = {6: 1, 7: 2}.get(size_code, 0)
    end = at + size_bytes + {12: 1, 13: 2, 14: 2}.get(rate_code, 0)
    if extra < 0 or size_code == 0 or rate_code == 15 or _crc8(head[:end]) != head[end]:
        return None
    number = head[4] & (0x3F >> extra if extra else 0x7F)
    for byte in head[5:at]:
        number = number << 6 | byte & 0x3F
    num_samples = _num_samples(size_code, head[at : at + size_bytes])
    is_variable = head[1] & 1
    return (number if is_variable else number * block_size), num_samples


def _num_samples(code: int, stated: bytes) -> int:
    if code == 1:
        return 192
    if code <= 5:
        return 576 << code - 2
    return int.from_bytes(stated, "big") + 1 if stated else 256 << code - 8


def _crc8(content: bytes) -> int:
    crc = 0
    for byte in content:
        crc = _CRC8[crc ^ byte]
    return crc
