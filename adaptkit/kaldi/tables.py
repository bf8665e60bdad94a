"""Kaldi tables: text files of `key value` lines with a single space, unique keys sorted in C order.

Kaldi splits at ASCII white space, Python at any. Here, in keys and values, other white space counts as a
space, and invisible characters are dropped (see `characters`). Locations in an `.scp` file stay unchanged,
since file names may contain either.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from operator import lt
from pathlib import Path

import numpy as np

from adaptkit.characters import clean, has_no_strange
from adaptkit.errors import DataError, shell_word, shorten
from adaptkit.files import read_blocks, require_regular, split_lines, write_text
from adaptkit.kaldi.columns import Strings, Table

MAKERS = (
    "'adaptkit data import' or a recipe's local/prepare.py makes one, and 'adaptkit feats' one with features"
)
REQUIRED = ("wav.scp", "text", "utt2spk", "spk2utt")  # tables of a data directory
OPTIONAL = ("segments", "feats.scp", "utt2task", "utt2group", "spk2group", "utt2dur")
SIDE_TABLES = {  # other Kaldi tables, by type of key
    "utterance": ("utt2num_frames", "utt2lang", "utt2uniq", "vad.scp"),
    "speaker": ("cmvn.scp", "spk2gender"),
    "recording": ("reco2dur", "reco2file_and_channel"),
}
_REPAIRED = {*REQUIRED, *OPTIONAL, *chain.from_iterable(SIDE_TABLES.values())}  # by 'adaptkit data fix'
_MARKS = ("wav.scp", "utt2spk")  # of a data directory; a decode folder has a text too
_ENDS = " \t\r"
_UNCLEAN = ("  ", " \n", "\n ", "\n\n")
_PIPES = Path("/dev/fd")  # of the shell's <(...), which only a command line can name


def read_table(path: Path) -> dict[str, str]:
    """Read `key value` lines in the order of the file; a missing or duplicate key is a DataError.

    A value may be empty or contain spaces; it is stripped at both ends.
    """
    table: dict[str, str] = {}
    for first, keys, values in _read_blocks(Path(path)):
        before = len(table)
        table.update(zip(keys, values, strict=True))
        if len(table) < before + len(keys):
            seen = set(islice(table, before))
            _refuse_duplicate(Path(path), first, keys, seen)
    return table


def read_columns(path: Path) -> Table[str]:
    """Read a table as `read_table` does, into columns in C order, with a tenth of a dict's memory."""
    ids, column, is_sorted, last = [], [], True, ""
    for _, keys, values in _read_blocks(Path(path)):
        is_sorted = is_sorted and last < keys[0] and all(map(lt, keys, islice(keys, 1, None)))
        last = keys[-1]
        ids.append(Strings.of(keys))
        column.append(Strings.of(values))
    table = Table(Strings.concatenate(ids), Strings.concatenate(column))
    return table if is_sorted else _sorted(Path(path), table)


def _sorted(path: Path, table: Table[str]) -> Table[str]:
    keys = list(table.ids)
    if len(set(keys)) < len(keys):
        _refuse_duplicate(path, 1, keys, set())
    rows = np.array(sorted(range(len(keys)), key=keys.__getitem__))
    return Table(table.ids.take(rows), table.column.take(rows))


def _refuse_duplicate(path: Path, first: int, keys: Iterable[str], seen: set[str]) -> None:
    """Refuse the first key, from line `first` on, that has been seen before."""
    for number, key in enumerate(keys, start=first):
        if key in seen:
            remedy = _remedy(path, "keeps the first", by_hand="remove this line or the earlier one")
            raise DataError(f"{path}:{number}: duplicate key {shorten(key)}; {remedy}")
        seen.add(key)


def _read_blocks(path: Path) -> Iterator[tuple[int, Sequence[str], Sequence[str]]]:
    """Yield a line number, and the keys and values from that line on, some 100,000 at a time."""
    if path.parent != _PIPES:
        require_regular(path)
    number = 1
    for block in read_blocks(path):
        keys, values = _split_block(path, number, block)
        if keys:
            yield number, keys, values
        number += len(keys)


def _split_block(path: Path, first: int, block: str) -> tuple[Sequence[str], Sequence[str]]:
    """Split the lines of a block, which are clean in nearly all files, into keys and values."""
    if is_clean(block):
        lines = [line.partition(" ") for line in block.removesuffix("\n").split("\n")]
        return [line[0] for line in lines], [line[2] for line in lines]
    keys, values = [], []
    for number, line in enumerate(split_lines(block), start=first):
        if "\0" in line:
            remedy = _remedy(path, "drops the line", by_hand="remove the character")
            raise DataError(f"{path}:{number}: not text, it contains a NUL character; {remedy}")
        key, value = split_line(line, has_location=path.suffix == ".scp")
        if not key:
            remedy = _remedy(path, "drops it", by_hand="remove the line")
            raise DataError(f"{path}:{number}: empty line; {remedy}")
        keys.append(key)
        values.append(value)
    return keys, values


def _remedy(path: Path, does: str, *, by_hand: str) -> str:
    """Return what `adaptkit data fix` does about a line, or what to do where it cannot repair the file."""
    is_repaired = path.name in _REPAIRED and all(os.path.exists(path.parent / name) for name in _MARKS)
    return f"'adaptkit data fix {shell_word(path.parent)}' {does}" if is_repaired else by_hand


def is_data_dir(folder: Path) -> bool:
    """Whether a folder is a data directory, perhaps an incomplete one."""
    return any(os.path.exists(folder / name) for name in _MARKS)


def write_table(path: Path, table: Mapping[str, str]) -> None:
    """Write a table atomically, sorted by the bytes of its keys as `LC_ALL=C sort` does."""
    write_text(path, format_table(table))


def format_table(table: Mapping[str, str]) -> str:
    r"""Format the lines of a table, sorted by the bytes of the keys.

    >>> format_table({"b": "two words", "B": ""})
    'B\nb two words\n'
    """
    is_sorted = isinstance(table, Table)
    items = table.items() if is_sorted else sorted(table.items(), key=lambda item: item[0].encode())
    lines = (f"{key} {value}".rstrip(_ENDS) for key, value in items)
    return "".join(f"{line}\n" for line in lines)


def is_clean(block: str) -> bool:
    """Whether `split_line` would leave all lines unchanged, with one space between key and value."""
    is_single = block[:1] not in (" ", "\n", "") and not any(pair in block for pair in _UNCLEAN)
    return is_single and not block.endswith(" ") and has_no_strange(block)


def split_line(line: str, *, has_location: bool = False) -> tuple[str, str]:
    r"""Split a line at its first blanks into key and value, both as `characters.clean` leaves them.

    With `has_location` the value is a file or command and stays unchanged.

    >>> split_line("utt1\u3000two\xa0words ")
    ('utt1', 'two words')
    >>> split_line("utt1 \t two\xa0words.wav ", has_location=True)
    ('utt1', 'two\xa0words.wav')
    """
    if has_location and (match := re.match(r"\s*(\S+)\s+", line)):
        return clean(match[1]), line[match.end() :].strip(_ENDS)
    key, _, value = clean(line).partition(" ")
    return key, value.strip()
