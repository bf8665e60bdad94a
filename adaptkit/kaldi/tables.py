"""Kaldi tables: text files of `key value` lines with a single space, unique keys sorted in C order."""

from collections.abc import Mapping
from pathlib import Path

from adaptkit.errors import DataError
from adaptkit.files import read_text, split_lines, write_text

BLANKS = " \t\r"  # Kaldi separates by ASCII whitespace only; a text may contain others, such as U+3000


def read_table(path: Path) -> dict[str, str]:
    """Read `key value` lines in the order of the file; a missing or duplicate key is a DataError.

    A value may be empty or contain spaces; it is stripped at both ends.
    """
    table: dict[str, str] = {}
    for number, line in enumerate(split_lines(read_text(path)), start=1):
        key, value = split_line(line)
        if not key:
            raise DataError(f"{path}:{number}: empty line; 'adaptkit data fix {path.parent}' drops it")
        if key in table:
            remedy = f"'adaptkit data fix {path.parent}' keeps the first"
            raise DataError(f"{path}:{number}: duplicate key {key}; {remedy}")
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
    lines = (f"{key} {table[key]}".rstrip(BLANKS) for key in sorted(table, key=str.encode))
    return "".join(f"{line}\n" for line in lines)


def split_line(line: str) -> tuple[str, str]:
    r"""Split a line at its first blanks into key and value.

    >>> split_line("utt1 \t two words ")
    ('utt1', 'two words')
    """
    line = line.strip(BLANKS)
    key = line.replace("\t", " ").split(" ", 1)[0]
    return key, line[len(key) :].strip(BLANKS)
