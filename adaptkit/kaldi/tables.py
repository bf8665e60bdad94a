"""Kaldi tables: text files of `key value` lines, one space, unique keys sorted in C order."""

from collections.abc import Mapping
from pathlib import Path

from adaptkit.errors import DataError
from adaptkit.files import read_text, write_text


def read_table(path: Path) -> dict[str, str]:
    """Read `key value` lines in the file's order; a line without a key, or a key seen before, is a DataError.

    A value may be empty or contain spaces; it is stripped at both ends.
    """
    table: dict[str, str] = {}
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        key, _, value = line.strip().partition(" ") if "\t" not in line else line.strip().partition("\t")
        if not key:
            raise DataError(f"{path}:{number}: empty line; 'adaptkit data fix {path.parent}' drops it")
        if key in table:
            remedy = f"'adaptkit data fix {path.parent}' keeps the first"
            raise DataError(f"{path}:{number}: {key} stands twice; {remedy}")
        table[key] = value.strip()
    return table


def write_table(path: Path, table: Mapping[str, str]) -> None:
    """Write a table atomically, sorted by the bytes of its keys as `LC_ALL=C sort` does."""
    lines = (f"{key} {table[key]}".rstrip() for key in sorted(table, key=str.encode))
    write_text(path, "".join(f"{line}\n" for line in lines))
