"""Compare the headers of recordings with the bytes that follow, since libsndfile trusts any header.

A recording shorter than stated in its header was truncated. A longer one was joined by `cat`, or its header
was never completed; libsndfile would silently read only its first part.
"""

import functools
import io
import os
import re

import soundfile

from adaptkit.errors import DataError
from adaptkit.files import stamp
from adaptkit.kaldi import flac

STREAM_BYTES = 0x7FFFF000  # sizes from here on mean an unknown length, written to a pipe (sox, ffmpeg)
UNKNOWN_FRAMES = 1 << 40  # libsndfile reports 2**63 - 1 for a FLAC stream of unknown length
PLAUSIBLE_HZ = (4000, 192000)
SAMPLE_BYTES = {"PCM_S8": 1, "PCM_U8": 1, "PCM_16": 2, "PCM_24": 3, "PCM_32": 4, "FLOAT": 4, "DOUBLE": 8,
    "ULAW": 1, "ALAW": 1}  # fmt: skip
MOST_EXTRA = (0.1, 1 << 13)  # share and bytes of a file that may be something other than samples
CHUNKED = ("WAV", "WAVEX", "RF64", "W64")  # libsndfile reads all chunks, and logs where it stops
UNCHUNKED = ("AIFF", "AU", "CAF", "NIST")
_CHUNK_BYTES = 1 << 24

Source = str | io.BytesIO  # the name of a file, or the bytes of one


def refuse_false_header(location: str, file: soundfile.SoundFile, source: Source) -> None:
    """Refuse a recording whose header contradicts itself or the content; only its end is decoded."""
    head = read_head(source)
    _refuse_strange_rate(location, file)
    _refuse_short_of_header(location, file, head)
    if not file.frames:
        raise DataError(f"{location}: contains no samples; drop it or fetch it again")
    if file.frames > UNKNOWN_FRAMES:
        raise DataError(f"{location}: the header does not state the length; decode and encode it again")
    _refuse_beyond_header(location, file, _size(source), head)
    if head[:4] in (b"fLaC", b"OggS"):
        _refuse_joined(location, file.frames, source)
    if file.seekable():
        _refuse_missing_end(location, file)


def read_head(source: Source) -> bytes:
    """Return the first bytes, which contain any header."""
    if isinstance(source, io.BytesIO):
        return bytes(source.getbuffer()[:1024])
    with open(source, "rb") as file:
        return file.read(1024)


def read_all(source: Source) -> bytes:
    """Return all bytes."""
    if isinstance(source, io.BytesIO):
        return source.getvalue()
    with open(source, "rb") as file:
        return file.read()


def truncated(location: str, what: str) -> DataError:
    """Return the error for a recording that ends too early."""
    return DataError(f"{location}: truncated, {what}; fetch it again")


def _size(source: Source) -> int:
    return source.getbuffer().nbytes if isinstance(source, io.BytesIO) else os.path.getsize(source)


def _refuse_strange_rate(location: str, file: soundfile.SoundFile) -> None:
    """Refuse an implausible sampling rate, and a WAV header whose byte rate contradicts it."""
    lowest, highest = PLAUSIBLE_HZ
    if not lowest <= file.samplerate <= highest:
        seen = f"the header says {file.samplerate} Hz, outside {lowest} to {highest} Hz"
        raise DataError(f"{location}: {seen}; correct the header")
    contradiction = re.search(r"Bytes/sec *: (\d+) \(should be (\d+)\)", file.extra_info)
    if contradiction:
        raise DataError(
            f"{location}: the header contradicts itself: {file.samplerate} Hz is {contradiction[2]} bytes "
            f"per second, but it says {contradiction[1]}; find the true rate and correct the header"
        )


def _refuse_short_of_header(location: str, file: soundfile.SoundFile, head: bytes) -> None:
    """Refuse a file with fewer samples than its header states; libsndfile only reports this in its log."""
    sizes = re.search(r"^ *(?:data|SSND|Data Size|riff) *: (\d+) \(should be (\d+)\)", file.extra_info, re.M)
    if sizes:
        promised, held = map(int, sizes.groups())
        if held + 1 < promised < STREAM_BYTES:  # 1: a pad byte
            raise truncated(location, f"{held} of {promised} bytes")
    sphere = _sphere_count(head)
    if sphere and file.frames < sphere:
        raise truncated(location, f"{file.frames} of {sphere} samples")
    if "ended unexpectedly" in file.extra_info:  # Ogg has no total to compare with
        raise truncated(location, f"{file.frames} samples and no end of stream")


def _refuse_beyond_header(location: str, file: soundfile.SoundFile, num_bytes: int, head: bytes) -> None:
    """Refuse a file of uncompressed samples that continues far beyond the length in its header."""
    width = SAMPLE_BYTES.get(file.subtype, 0) * file.channels
    frames = _sphere_count(head) or _w64_count(file, width) or file.frames
    extra = num_bytes - frames * width
    share, some = MOST_EXTRA
    is_doubtful = file.format in UNCHUNKED or (file.format in CHUNKED and "Exiting parser" in file.extra_info)
    if width and is_doubtful and extra > share * frames * width + some:
        raise DataError(
            f"{location}: the header states {frames / file.samplerate:.2f} s, but {extra} more bytes follow, "
            "as when files are joined by cat or a recorder is killed; write it again with the true length"
        )


def _sphere_count(head: bytes) -> int | None:
    found = re.search(rb"^NIST_1A(?s:.*)\nsample_count -i (\d+)", head)
    return int(found[1]) if found else None


def _w64_count(file: soundfile.SoundFile, width: int) -> int | None:
    """Return the number of samples in a W64 file from its data chunk's size, which includes 24 header bytes.

    For other files, return None.
    """
    found = re.search(r"^data : (\d+)", file.extra_info, re.M) if file.format == "W64" else None
    return (int(found[1]) - 24) // width if found and width else None


def _refuse_joined(location: str, num_frames: int, source: Source) -> None:
    """Refuse FLAC whose last frame contradicts its header, and a second stream after the first."""
    if isinstance(source, str):
        end, is_joined = _find_end_of_file(source, os.stat(source).st_ino, *stamp(source))
    else:
        end, is_joined = _find_end(source)
    if end is not None and end < num_frames:
        raise truncated(location, f"{end} of {num_frames} samples")
    if end is not None and end > num_frames:
        raise DataError(
            f"{location}: the header states {num_frames} samples, but the last one is number {end}; "
            "fetch it again, or decode and encode it again"
        )
    if is_joined:
        raise DataError(
            f"{location}: several streams one after the other, as when files are joined by cat; only the "
            "first would be read, so decode each of them and join the results"
        )


@functools.lru_cache(maxsize=1 << 12)  # long recordings are opened for each of their segments
def _find_end_of_file(path: str, *_identity: int) -> tuple[int | None, bool]:
    with open(path, "rb") as file:
        return _find_end(file)


def _find_end(file: io.BufferedIOBase) -> tuple[int | None, bool]:
    """Return the number of samples by the last FLAC frame, if any, and whether a second stream follows."""
    file.seek(0)
    is_flac = file.read(4) == b"fLaC"
    end = flac.find_end(file) if is_flac else None
    file.seek(0)
    marker = re.compile(rb"fLaC\0\0\0\x22" if is_flac else rb"OggS\0\x02", re.S)
    between = None if is_flac else re.compile(rb"OggS\0[^\x02\x03\x06\x07]", re.S)
    return end, _has_second(file, marker, between)


def _has_second(
    file: io.BufferedIOBase, marker: re.Pattern[bytes], between: re.Pattern[bytes] | None
) -> bool:
    """Whether a marker occurs again; multiplexed Ogg streams all begin before any continues."""
    has_begun, kept = False, b""
    while chunk := file.read(_CHUNK_BYTES):
        window, place = kept + chunk, 0
        if not has_begun:
            first = (between or marker).search(window)
            has_begun, place = first is not None, first.end() if first else 0
        if has_begun and marker.search(window, place):
            return True
        kept = window[max(place, len(window) - 7) :]  # 7: a marker may lie across the edge
    return False


def _refuse_missing_end(location: str, file: soundfile.SoundFile) -> None:
    """Decode the last sample, which fails for a truncated FLAC file."""
    try:
        file.seek(file.frames - 1)
        is_whole = len(file.read(1, dtype="int16")) == 1
        file.seek(0)
    except soundfile.LibsndfileError:
        is_whole = False
    if not is_whole:
        raise truncated(location, f"the last of {file.frames} samples cannot be decoded")
