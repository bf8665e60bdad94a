"""Kaldi's ark files of features: written with checksums in a record beside them, and checked when read.

The record of `feats.1.ark` is `feats.1.json`. It holds the size and CRC-32 of the whole archive, which are
verified when an archive is reused, and those of every matrix, which are verified whenever it is read (0.1 to
0.4 ms for 10 s of speech), so that no run has to read a corpus twice. An archive without a record was made by
Kaldi's own tools; only its structure can be checked.
"""

import functools
import io
import os
import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, BinaryIO

import kaldiio
import numpy as np
import torch
from kaldiio.matio import read_kaldi
from pydantic import Field, TypeAdapter, ValidationError
from torch import Tensor

from adaptkit.errors import AdaptkitError, DataError
from adaptkit.files import (
    checksum,
    explain_os_error,
    read_text,
    remove,
    replacing,
    require_regular,
    stamp,
    write_text,
)
from adaptkit.kaldi.recording import split_offset

REMEDY = "run 'adaptkit feats' again, which rewrites damaged archives"
_HEAD_BYTES = 32  # at the start of a matrix; more than any header has
_CELL_BYTES = {b"FM": 4, b"DM": 8, b"CM": 1, b"CM2": 2, b"CM3": 1}  # bytes per value, by the type of matrix

_Number = Annotated[int, Field(ge=0, lt=2**63)]


@dataclass(frozen=True)
class ArchiveRecord:
    """The content of an archive and a digest of its sources."""

    made_of: str
    num_bytes: _Number
    crc32: _Number
    entries: Mapping[str, tuple[_Number, _Number, _Number]]  # utterance: offset, bytes, CRC-32 of its matrix
    frames: Mapping[str, _Number]  # utterance: T
    seconds: Mapping[str, float] = field(default_factory=dict)  # utterance: its duration
    losses: Mapping[str, float] = field(default_factory=dict)  # utterance: its loss of intermediate CTC
    failures: Mapping[str, str] = field(default_factory=dict)  # utterance: the reason why it has no matrix


@dataclass(frozen=True)
class _Sealed:
    """A record as stored, with the CRC-32 of its own json."""

    seal: int
    record: ArchiveRecord


_SEALED, _RECORD = TypeAdapter(_Sealed), TypeAdapter(ArchiveRecord)


def write_archive(path: Path, matrices: Iterable[tuple[str, np.ndarray]], *, made_of: str) -> ArchiveRecord:
    """Write the matrices (T, F) of utterances to an archive, to be completed by `write_record`."""
    remove(record_path(path))
    entries, frames, crc32 = {}, {}, 0
    with replacing(path) as temporary, open(temporary, "wb") as file:
        for utt_id, matrix in matrices:
            content = io.BytesIO()
            kaldiio.save_mat(content, matrix)
            key, body = f"{utt_id} ".encode(), content.getvalue()
            crc32 = zlib.crc32(body, zlib.crc32(key, crc32))
            file.write(key)
            entries[utt_id] = (file.tell(), len(body), zlib.crc32(body))
            file.write(body)
            frames[utt_id] = len(matrix)
        num_bytes = file.tell()
    return ArchiveRecord(made_of, num_bytes, crc32, entries, frames)


def write_record(path: Path, record: ArchiveRecord) -> None:
    """Write the record of an archive, after the archive itself."""
    write_text(record_path(path), _SEALED.dump_json(_Sealed(_seal(record), record)).decode())


def record_path(path: Path) -> Path:
    """Return the path of an archive's record."""
    return Path(path).with_suffix(".json")


def read_record(path: Path, remedy: str = REMEDY) -> ArchiveRecord:
    """Read the record of an archive; a damaged one is a DataError with the remedy."""
    file = record_path(path)
    require_regular(file)
    try:
        sealed = _SEALED.validate_json(read_text(file))
    except ValidationError as error:
        reason = error.errors(include_url=False)[0]["msg"]
        raise DataError(f"{file}: not the record of an archive, or damaged ({reason}); {remedy}") from error
    if sealed.seal != _seal(sealed.record) or sealed.record.entries.keys() != sealed.record.frames.keys():
        raise DataError(f"{file}: damaged, its content differs from its checksum; {remedy}")
    return sealed.record


def find_damage(path: Path, made_of: str, *, allows_failures: bool = False) -> str:
    """Return why an archive cannot be kept; empty if it is intact and made from `made_of`.

    An archive that lacks utterances, which may be available by now, is kept only if `allows_failures`.
    """
    if not (Path(path).is_file() and record_path(path).is_file()):
        return "incomplete"
    try:
        record = read_record(path)
    except AdaptkitError:
        return "damaged"
    if record.made_of != made_of or (record.failures and not allows_failures):
        return "made from other data or options"
    if path.stat().st_size != record.num_bytes or checksum(path) != record.crc32:
        return "damaged"
    return ""


def refuse_incomplete(locations: Iterable[str], remedy: str = REMEDY) -> None:
    """Refuse archives whose size differs from their record; nothing else is read."""
    for path in sorted(_by_archive(locations)):
        _find_index(path, remedy)


def count_recorded(locations: Sequence[str], remedy: str = REMEDY) -> list[int] | None:
    """Return the frames of `feats.scp` entries from their archives' records; None if one has no record."""
    frames = np.zeros(len(locations), np.int64)
    for path, entries in _by_archive(locations).items():
        index = _find_index(path, remedy)
        if index is None:
            return None
        for row, offset in entries:
            try:
                frames[row] = index.frames[index.find(offset)]
            except _DamageError as error:
                raise DataError(f"{locations[row]}: {error}; {remedy}") from error
    return frames.tolist()


def _by_archive(locations: Iterable[str]) -> dict[str, list[tuple[int, int]]]:
    """Group locations by archive, as places and offsets; each archive is looked up on disk once."""
    found: dict[str, list[tuple[int, int]]] = {}
    for row, location in enumerate(locations):
        path, _, digits = location.rpartition(":")
        if path not in found or not digits.isdecimal():
            path, offset = split_offset(location)
            digits = offset or 0  # of a file with one matrix
        found.setdefault(path, []).append((row, int(digits)))
    return found


def load_feats(location: str, remedy: str = REMEDY) -> Tensor:
    """Load the features (T, F) of an entry of `feats.scp`: `archive:offset`, or a file with one matrix.

    Only Kaldi's binary matrices are read; kaldiio would also run commands and unpickle files.
    """
    path, offset = split_offset(location)
    offset = offset or 0  # of a file with one matrix
    index = _find_index(path, remedy)
    try:
        with open(path, "rb") as file:
            content = index.read(file, offset) if index else _read_unrecorded(file, offset)
    except OSError as error:
        raise DataError(f"{explain_os_error(error, path)}; {remedy}") from error
    except _DamageError as error:
        raise DataError(f"{location}: {error}; {remedy}") from error
    return torch.from_numpy(np.array(read_kaldi(io.BytesIO(content)), dtype=np.float32))


class _DamageError(ValueError):
    """Raised for damaged content of an archive."""


@dataclass(frozen=True)
class _Index:
    """The positions of matrices in an archive with a record; arrays (N,), as a corpus has many archives."""

    offsets: np.ndarray  # ascending
    sizes: np.ndarray
    checksums: np.ndarray
    frames: np.ndarray

    def find(self, offset: int) -> int:
        """Return the row of the matrix at an offset."""
        place = int(np.searchsorted(self.offsets, offset))
        if place == len(self.offsets) or self.offsets[place] != offset:
            raise _DamageError("no features at this offset")
        return place

    def read(self, file: BinaryIO, offset: int) -> bytes:
        """Read the matrix at an offset, and verify its checksum."""
        place = self.find(offset)
        file.seek(offset)
        content = file.read(int(self.sizes[place]))
        if zlib.crc32(content) != self.checksums[place]:
            raise _DamageError("damaged, its bytes differ from their checksum")
        _matrix_bytes(content)
        return content


def _find_index(path: str, remedy: str) -> _Index | None:
    """Return the index of an archive; None if it has no record."""
    try:
        require_regular(Path(path))
    except AdaptkitError as error:
        raise DataError(f"{error}; {remedy}") from error
    record = record_path(Path(path))
    if not os.path.lexists(record) or record.name == "feats.json":  # that one holds the options
        return None
    return _read_index(path, *stamp(path), *stamp(record), remedy=remedy)


@functools.lru_cache(maxsize=1 << 14)  # at 500 utterances each, 12 kB
def _read_index(path: str, num_bytes: int, *stamps: int, remedy: str) -> _Index:
    """Read the index of an archive; the cache's key includes its stamps and those of its record."""
    record = read_record(Path(path), remedy)
    if num_bytes != record.num_bytes:
        what = "truncated" if num_bytes < record.num_bytes else "damaged"
        raise DataError(f"{path}: {what}, {num_bytes} of {record.num_bytes} bytes; {remedy}")
    rows = sorted((*entry, record.frames[utt_id]) for utt_id, entry in record.entries.items())
    return _Index(*np.array(rows, dtype=np.int64).reshape(-1, 4).T.copy())


def _read_unrecorded(file: BinaryIO, offset: int) -> bytes:
    """Read a matrix from an archive without a record; its header must fit the file."""
    size = file.seek(0, os.SEEK_END)
    file.seek(offset)
    needed = _matrix_bytes(file.read(_HEAD_BYTES))
    if offset + needed > size:
        raise _DamageError(f"truncated, {size - offset} of {needed} bytes")
    file.seek(offset)
    return file.read(needed)


def _matrix_bytes(head: bytes) -> int:
    """Return the size in bytes of a matrix, from its header; see Kaldi's matrix/kaldi-matrix.cc."""
    kind, _, rest = head[2:_HEAD_BYTES].partition(b" ")
    layout = "<xixi" if kind in (b"FM", b"DM") else "<8xii"
    size = struct.calcsize(layout)
    if head[:2] != b"\0B" or kind not in _CELL_BYTES or len(rest) < size:
        raise _DamageError("no Kaldi matrix at this offset")
    rows, cols = struct.unpack(layout, rest[:size])
    if rows < 1 or cols < 1:
        raise _DamageError(f"a matrix of {rows} by {cols} values")
    columns = 8 * cols if kind == b"CM" else 0
    return 3 + len(kind) + size + columns + rows * cols * _CELL_BYTES[kind]


def _seal(record: ArchiveRecord) -> int:
    return zlib.crc32(_RECORD.dump_json(record))
