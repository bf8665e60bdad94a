"""Open the recordings named in wav.scp, and check their headers before anything is decoded.

A location is a regular file (WAV, FLAC, NIST SPHERE, anything libsndfile reads, or headerless `.raw`), an
entry of an archive as `archive.ark:offset`, or a shell command that ends in `|`, whose output is read as a
file. Commands are run only if the user allows it (`--allow-pipes`).
"""

import functools
import io
import logging
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from adaptkit.errors import AdaptkitError, DataError
from adaptkit.files import require_regular, stamp
from adaptkit.kaldi.headers import read_all, read_head, refuse_false_header, truncated
from adaptkit.kaldi.mpeg import begins_frame, with_true_length
from adaptkit.kaldi.wav import PlainWav, read_plain

RAW_RATE_HZ = 16000  # assumed rate of headerless .raw files; AN4's
LOUD = 12000  # RMS of 16-bit samples; about 18900 = 2**15 / sqrt(3) with swapped bytes, below 8000 for speech
SNIFFED_SAMPLES = 1 << 20  # 65 s, enough to detect the byte order
IN_ORDER = ("MPEG_LAYER_I", "MPEG_LAYER_II", "MPEG_LAYER_III", "VORBIS")
MOST_DIGITS = 13  # of an offset in an archive, 10 TB; file systems refuse to seek much further
MOST_LEVEL = 8.0  # floats may slightly exceed full scale; 16-bit values stored as floats reach thousands
OVERSHOOT_SEC = 0.05  # with rounded times, a segment may end this much after its recording, and is clipped

log = logging.getLogger(__name__)


class SoundFile(soundfile.SoundFile):
    """A sound file that does not seek if that would change the samples.

    GSM 6.10, G.721 and others cannot seek at all. After a seek, MP3 and Vorbis decode to slightly different
    samples, and libmpg123 complains on stderr; soundfile seeks after every read if the format supports it.
    """

    def seekable(self) -> bool:
        """Whether the file can be read from any position; otherwise it is decoded from the beginning."""
        return super().seekable() and self.subtype not in IN_ORDER


@dataclass(frozen=True)
class Recording:
    """The header of a recording, checked against its bytes; MP3 frames are counted."""

    location: str
    rate_hz: int
    num_samples: int  # of each channel
    num_channels: int

    @property
    def duration_sec(self) -> float:
        """The length in seconds."""
        return self.num_samples / self.rate_hz


def probe(location: str, *, allow_pipes: bool = False) -> Recording:
    """Read the header of a recording; an unusable recording is a DataError.

    Only the last sample is decoded, to check that it exists; formats that cannot seek are not decoded. A
    command is run to its end.
    """
    wav = find_plain(location)
    if wav is not None:
        return Recording(location, wav.rate_hz, wav.num_samples, wav.num_channels)
    with opened(location, allow_pipes=allow_pipes) as (recording, _):
        return recording


def find_plain(location: str) -> PlainWav | None:
    """Read the header of a plain WAV file, the format of nearly all recordings; None for any other."""
    is_other = is_command(location) or location.lower().endswith(".raw")
    return None if is_other else read_plain(location)


def is_command(location: str) -> bool:
    """Whether a location is a shell command that outputs the recording."""
    return location.rstrip().endswith("|")


def split_offset(location: str) -> tuple[str, int | None]:
    """Split `archive:offset` into the archive and a position in bytes; None if the location is a file.

    >>> split_offset("feats.1.ark:17")
    ('feats.1.ark', 17)
    """
    entry = re.fullmatch(r"(.+):([0-9]+)", location)
    if not entry or os.path.lexists(location):
        return location, None
    if len(entry[2]) > MOST_DIGITS:
        remedy = "write its scp file again"
        raise DataError(f"{location}: no archive is that long, an offset of {len(entry[2])} digits; {remedy}")
    return entry[1], int(entry[2])


def stamp_recording(location: str) -> list[int]:
    """Return the size and modification time of a recording's file or archive; an empty list for a command."""
    return stamp(split_offset(location)[0])


@contextmanager
def opened(location: str, *, allow_pipes: bool = False) -> Iterator[tuple[Recording, SoundFile]]:
    """Open a recording from a file, archive or command; a header that cannot be right is a DataError."""
    source = _find_bytes(location, allow_pipes)
    with _open(location, source) as file:
        refuse_false_header(location, file, source)
        yield Recording(location, file.samplerate, file.frames, file.channels), file


def _open(location: str, source: str | io.BytesIO) -> SoundFile:
    layout = _raw_layout(location) if source == location and location.lower().endswith(".raw") else {}
    head = read_head(source)
    is_counted = not layout and (head[:3] == b"ID3" or begins_frame(head))
    try:
        file = SoundFile(_counted(location, source) if is_counted else source, **layout)
    except soundfile.LibsndfileError as error:
        is_sphere = head.startswith(b"NIST_1A")  # compressed by shorten, as in some LDC corpora
        remedy = "decompress it with sph2pipe" if is_sphere else "convert it to WAV or FLAC, or drop it"
        raise DataError(f"{location}: not audio ({error.error_string.strip(' .')}); {remedy}") from error
    if is_counted or file.format != "MP3":
        return file
    file.close()
    return SoundFile(_counted(location, source))  # an MP3 file that begins with other bytes


def _counted(location: str, source: str | io.BytesIO) -> str | io.BytesIO:
    """Return the source of an MP3 file, or its bytes after a header with the true number of frames."""
    counted = with_true_length(location, memoryview(read_all(source)))
    return source if counted is None else io.BytesIO(counted)


def _find_bytes(location: str, allow_pipes: bool) -> str | io.BytesIO:
    """Return the name of a file, or the bytes from a command or an archive."""
    if is_command(location):
        return io.BytesIO(_run(location, allow_pipes))
    path, offset = split_offset(location)
    try:
        require_regular(Path(path))
        if offset is not None:
            return io.BytesIO(_read_archive(location, path, offset))
        size = os.path.getsize(path)
    except OSError as error:
        raise DataError(f"{location}: {error.strerror or error}; correct wav.scp") from error
    except AdaptkitError as error:
        if os.path.exists(path) or "\0" in path:
            raise DataError(str(error)) from error
        place = "" if Path(path).is_absolute() else f" (relative to {Path.cwd()})"
        raise DataError(f"{error}{place}; correct wav.scp or fetch the recording") from error
    if not size:
        raise DataError(f"{location}: an empty file; fetch it again")
    return location


def refused_command(location: str) -> DataError:
    """Return the error for a command that is not allowed."""
    return DataError(f"{location}: a shell command; allow it with --allow-pipes if you trust its author")


def _run(location: str, allow_pipes: bool) -> bytes:
    if not allow_pipes:
        raise refused_command(location)
    command = location.rstrip().rstrip("|")
    done = subprocess.run(  # noqa: S602 (asked for)
        command,
        shell=True,
        stdin=subprocess.DEVNULL,  # ffmpeg reads it, and would take the lines of a shell loop
        capture_output=True,
        check=False,
    )
    if done.returncode or not done.stdout:
        said = " / ".join(done.stderr.decode(errors="replace").strip().splitlines()[-3:]) or "nothing"
        failed = f"exit code {done.returncode}" if done.returncode else "no output"
        raise DataError(f"{location}: {failed}, stderr: {said}; run the command by hand")
    return done.stdout


def _read_archive(location: str, archive: str, offset: int) -> bytes:
    """Read an archive entry: a WAV file as Kaldi writes it, or kaldiio's `AUDIO`, length and file."""
    with open(archive, "rb") as file:
        file.seek(offset)
        head = file.read(16)
        width = int.from_bytes(head[5:6], "little")  # of the length, in bytes
        if head.startswith(b"RIFF"):
            start, size = offset, 8 + int.from_bytes(head[4:8], "little")
        elif head.startswith(b"AUDIO") and 0 < width <= 8:
            start, size = offset + 6 + width, int.from_bytes(head[6 : 6 + width], "little")
        else:
            raise DataError(f"{location}: no audio at byte {offset} of the archive; write its scp file again")
        held = max(0, file.seek(0, os.SEEK_END) - start)
        if held < size:
            raise DataError(f"{location}: truncated, {held} of {size} bytes; write the archive again")
        file.seek(start)
        return file.read(size)


def _raw_layout(location: str) -> dict[str, object]:
    """Return the format of a headerless 16-bit file; the wrong byte order would give loud noise."""
    size = os.path.getsize(location)
    if size % 2:
        raise truncated(location, f"{size} bytes are not whole 16-bit samples")
    head = np.fromfile(location, dtype="<i2", count=SNIFFED_SAMPLES)
    little, big = (float(np.sqrt(np.square(x.astype(np.float64)).mean())) for x in (head, head.byteswap()))
    if min(little, big) > LOUD:
        raise DataError(
            f"{location}: not raw audio, loud noise in either byte order (RMS {little:.0f} and {big:.0f}); "
            "find out its format and add a header, or drop it"
        )
    order = "big" if big < little else "little"
    _log_byte_order(order)
    return {"format": "RAW", "subtype": "PCM_16", "endian": order.upper(), "samplerate": RAW_RATE_HZ,
            "channels": 1}  # fmt: skip


@functools.cache  # once per process, not per file
def _log_byte_order(order: str) -> None:
    log.info("headerless .raw at %d Hz: %s-endian, loud noise in the other order", RAW_RATE_HZ, order)
