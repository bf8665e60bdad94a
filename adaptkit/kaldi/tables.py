"""Kaldi tables: text files of `key value` lines with a single space, unique keys sorted in C order.

Kaldi separates by ASCII white space, Python programs by any. Here, other white space counts as a space and
invisible characters count as nothing (see `characters`), in keys and in values. The locations in an `.scp`
file stay as they are, since the name of a file may contain either.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from adaptkit.characters import clean
from adaptkit.errors import DataError, shorten
from adaptkit.files import read_text, require_regular, split_lines, write_text

_ENDS = " \t\r"
_PIPES = Path("/dev/fd")  # of the shell's <(...), which only a command line can name


def read_table(path: Path) -> dict[str, str]:
    """Read `key value` lines in the order of the file; a missing or duplicate key is a DataError.

    A value may be empty or contain spaces; it is stripped at both ends.
    """
    path, table = Path(path), {}
    if path.parent != _PIPES:
        require_regular(path)
    for number, line in enumerate(split_lines(read_text(path)), start=1):
        if "\0" in line:
            remedy = f"'adaptkit data fix {path.parent}' drops the line"
            raise DataError(f"{path}:{number}: not text, it contains a NUL character; {remedy}")
        key, value = split_line(line, has_location=path.suffix == ".scp")
        if not key:
            raise DataError(f"{path}:{number}: empty line; 'adaptkit data fix {path.parent}' drops it")
        if key in table:
            remedy = f"'adaptkit data fix {path.parent}' keeps the first"
            raise DataError(f"{path}:{number}: duplicate key {shorten(key)}; {remedy}")
        table[key] = value
    return table


def write_table(path: Path, table: Mapping[str, str]) -> None:
    """Write a table atomically, sorted by the bytes of its keys as `LC_ALL=C sort` does."""
    write_text(path, format_table(table))


def format_table(table: Mapping[str, str]) -> str:
    r"""Format the lines of a table, sorted by the bytes of the keys.

    >>> format_table({"b": "two words", "B": ""})
    'B\nb two words\n'
    """
    lines = (f"{key} {table[key]}".rstrip(_ENDS) for key in sorted(table, key=str.encode))
    return "".join(f"{line}\n" for line in lines)


def split_line(line: str, *, has_location: bool = False) -> tuple[str, str]:
    r"""Split a line at its first blanks into key and value, both as `characters.clean` leaves them.

    With `has_location` the value is a file or command and stays as it is.

    >>> split_line("utt1\u3000two\xa0words ")
    ('utt1', 'two words')
    >>> split_line("utt1 \t two\xa0words.wav ", has_location=True)
    ('utt1', 'two\xa0words.wav')
    """
    if has_location and (match := re.match(r"\s*(\S+)\s+", line)):
        return clean(match[1]), line[match.end() :].strip(_ENDS)
    key, _, value = clean(line).partition(" ")
    return key, value.strip()
