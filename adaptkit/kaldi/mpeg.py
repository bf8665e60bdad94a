"""Count the frames of MP3 files, whose headers often state no length or that of only a part of the file.

Files with a variable rate written to a pipe have no frame count, and in files joined by `cat` the header
counts only the frames of the first. libsndfile trusts the count, or guesses one from the size and the first
frame, and returns no more samples than that. So all frames are visited here, in 0.2 s per hour of speech, and
content without a true count gets one. See ISO/IEC 11172-3 and 13818-3, and the Info frame of Xing and LAME.
"""

import functools
import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from adaptkit.errors import DataError

_KBITS = {  # by MPEG version, 1 or 2 (and 2.5), and layer
    (1, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (1, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (1, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (2, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_RATES_HZ = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}  # by version bits
_INFO_BYTES = 64  # after the side information, with the counts
_START = re.compile(rb"\xff[\xe0-\xff]|ID3|TAG|APETAGEX")
_TAG_BYTES = 128  # of an ID3v1 tag, at the end of a file
_SLACK = 1  # frames; some encoders count the Info frame itself


@dataclass(frozen=True)
class _Header:
    """The header of a frame."""

    kind: tuple[int, int, int, bool]  # version bits, layer, rate in Hz, whether it has one channel
    num_bytes: int

    @property
    def info_at(self) -> int:
        """The position of the word Xing or Info in a frame without sound, after the side information."""
        version, _, _, is_mono = self.kind
        return 4 + ((17 if is_mono else 32) if version == 3 else (9 if is_mono else 17))


@dataclass(frozen=True)
class _Frame:
    """A frame: its position, its header and, if it is an Info frame, the number of frames it announces."""

    start: int
    header: _Header
    promised: int | None

    @property
    def end(self) -> int:
        """The position after the frame."""
        return self.start + self.header.num_bytes


def with_true_length(location: str, content: memoryview) -> bytes | None:
    """Return MP3 content after an Info frame with the true number of frames; None if its own is right.

    Tags and junk between frames are left out. A part without its end, and parts with different rates or
    channels, are a DataError. The result is also None if the tags at the beginning are followed by another
    format, such as FLAC.
    """
    place = 0
    while skipped := _skip_tag(content, place):
        place = skipped
    if bytes(content[place : place + 4]) in (b"fLaC", b"OggS", b"RIFF", b"FORM"):
        return None
    frames = list(_frames(location, content))
    sounding = [frame for frame in frames if frame.promised is None]
    kinds = {frame.header.kind for frame in frames}
    if len(kinds) > 1:
        rates = sorted({kind[2] for kind in kinds})
        raise DataError(
            f"{location}: frames of {len(kinds)} different formats ({', '.join(map(str, rates))} Hz), as "
            "when files are joined by cat; decode each of them and join the results"
        )
    _refuse_missing(location, frames)
    if not sounding:
        what = "not audio (no MP3 frame with sound)"
        raise DataError(f"{location}: {what}; convert it to WAV or FLAC, or drop it")
    promised = [frame.promised for frame in frames if frame.promised is not None]
    if len(promised) == 1 and abs(promised[0] - len(sounding)) <= _SLACK:
        is_dense = all(one.end == other.start for one, other in pairwise(frames))
        return None if is_dense and len(content) - frames[-1].end <= _TAG_BYTES else _join(content, frames)
    audio = _join(content, sounding)
    return _info_frame(content[sounding[0].start :][:4], len(sounding), len(audio)) + audio


def _join(content: memoryview, frames: Sequence[_Frame]) -> bytes:
    return b"".join(content[frame.start : frame.end] for frame in frames)


def begins_frame(head: bytes) -> bool:
    r"""Whether a file that begins like this may begin with a frame.

    >>> begins_frame(b"\xff\xfb\x90\x00"), begins_frame(b"RIFF")
    (True, False)
    """
    return _parse_header(head[:4]) is not None


def _frames(location: str, content: memoryview) -> Iterator[_Frame]:
    """Yield all frames, skipping tags and junk between them; an incomplete last frame is a DataError."""
    place, is_next = 0, False  # whether a frame has just ended
    while place + 4 <= len(content):
        header = _read_header(content, place)
        end = place + header.num_bytes if header else place
        if header and is_next and end > len(content):
            held = f"{len(content) - place} of the {header.num_bytes} bytes of its last frame"
            raise DataError(f"{location}: truncated, {held}; fetch it again")
        if header and (_begins(content, end) or (is_next and _find_start(content, place + 4) >= end)):
            yield _Frame(place, header, _read_promise(content, place, header))
            place, is_next = end, True
            continue
        skipped = _skip_tag(content, place)
        place, is_next = (skipped, is_next) if skipped else (_find_start(content, place + 1), False)


def _read_header(content: memoryview, place: int) -> _Header | None:
    """Read the header of a frame; None if there is none at this place."""
    return _parse_header(bytes(content[place : place + 4]))


@functools.lru_cache(maxsize=1 << 12)  # a file has only a few different ones
def _parse_header(word: bytes) -> _Header | None:
    if len(word) < 4 or word[0] != 0xFF or word[1] >> 5 != 7:
        return None
    _, second, third, fourth = word
    version, layer = second >> 3 & 3, 4 - (second >> 1 & 3)
    rate, kbits, padding = third >> 2 & 3, third >> 4, third >> 1 & 1
    if version == 1 or layer == 4 or rate == 3 or kbits in (0, 15):
        return None
    rate_hz = _RATES_HZ[version][rate]
    bits = 1000 * _KBITS[1 if version == 3 else 2, layer][kbits - 1]
    num_samples = {1: 384, 2: 1152, 3: 1152 if version == 3 else 576}[layer]
    if layer == 1:
        num_bytes = 4 * (12 * bits // rate_hz + padding)
    else:
        num_bytes = num_samples // 8 * bits // rate_hz + padding
    return _Header((version, layer, rate_hz, fourth >> 6 == 3), num_bytes)


def _begins(content: memoryview, place: int) -> bool:
    """Whether a frame or a tag begins at a place, or the content ends there."""
    if place >= len(content):
        return place == len(content)
    return _read_header(content, place) is not None or _skip_tag(content, place) is not None


def _find_start(content: memoryview, place: int) -> int:
    """Return the next position of a tag, or of a frame followed by another; the end if there is none."""
    for match in _START.finditer(content, place):
        header = _read_header(content, match.start())
        follows = header and _begins(content, match.start() + header.num_bytes)
        if follows or _skip_tag(content, match.start()):
            return match.start()
    return len(content)


def _skip_tag(content: memoryview, place: int) -> int | None:
    """Return the end of an ID3 or APE tag; None if there is none at this place."""
    head = bytes(content[place : place + 16])
    if head.startswith(b"TAG"):
        return min(place + _TAG_BYTES, len(content))
    if head.startswith(b"APETAGEX") and len(head) == 16:  # the size includes the footer, but not the header
        return min(place + 32 + int.from_bytes(head[12:], "little"), len(content))
    if head.startswith(b"ID3") and len(head) >= 10:
        size = sum(byte << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
        return min(place + 10 + size, len(content))
    return None


def _read_promise(content: memoryview, place: int, header: _Header) -> int | None:
    """Return the number of frames that an Info frame announces, 0 if none; None for a frame with sound."""
    at = header.info_at
    frame = bytes(content[place : place + min(header.num_bytes, at + _INFO_BYTES)])
    if frame[at : at + 4] in (b"Xing", b"Info") and len(frame) >= at + 12:
        return int.from_bytes(frame[at + 8 : at + 12], "big") if frame[at + 7] & 1 else 0
    if frame[36:40] == b"VBRI" and len(frame) >= 54:
        return int.from_bytes(frame[50:54], "big")
    return None


def _refuse_missing(location: str, frames: list[_Frame]) -> None:
    """Refuse content with fewer frames after an Info frame than it announces."""
    starts = [index for index, frame in enumerate(frames) if frame.promised is not None]
    for start, end in pairwise([*starts, len(frames)]):
        held, promised = end - start - 1, frames[start].promised
        if held + _SLACK < promised:
            raise DataError(f"{location}: truncated, {held} of {promised} frames; fetch it again")


def _info_frame(head: memoryview, num_frames: int, num_bytes: int) -> bytes:
    """Return an Info frame for others, in the format of the header of one of them."""
    first, second, third, fourth = head
    for kbits in range(1, 15):
        start = bytes([first, second | 1, kbits << 4 | third & 0x0C, fourth])  # without CRC and padding
        header = _read_header(memoryview(start), 0)
        if header.num_bytes >= header.info_at + _INFO_BYTES:
            break
    counts = b"Xing" + struct.pack(">III", 3, num_frames, num_bytes + header.num_bytes)  # 3: both counts
    body = start + bytes(header.info_at - 4) + counts
    return body + bytes(header.num_bytes - len(body))
