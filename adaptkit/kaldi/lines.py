"""The lines of a table as columns, whatever the order of its keys; a million take 50 MB rather than 300."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice, pairwise
from operator import lt
from typing import NamedTuple

import numpy as np

from adaptkit.kaldi.columns import Names, Strings


class Line(NamedTuple):
    """One line of a table and its number, from 1."""

    number: int
    value: str


class Lines(Mapping[str, Line]):
    """The valid lines of a table by their keys, in the order of the file."""

    def __init__(self, ids: Strings, column: Strings | Names, numbers: np.ndarray):
        self.ids, self.column = ids, column
        self.numbers = numbers  # (N,) of the lines, from 1

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[str]:
        return iter(self.ids)

    def __getitem__(self, key: str) -> Line:
        return self._line(self._places[key])

    def __contains__(self, key: object) -> bool:
        return key in self._places

    def lines(self) -> Iterator[tuple[str, Line]]:
        """Yield each key with its line, without a search."""
        return zip(self.ids, map(Line, map(int, self.numbers), self.column), strict=True)

    def rows(self, keys: Sequence[str]) -> np.ndarray:
        """Return the row of each key (N,); -1 where there is none."""
        if isinstance(keys, Strings) and keys == self.ids:
            return np.arange(len(keys))
        if isinstance(keys, Names):
            return np.append(self.rows(keys.names), -1)[keys.codes]
        return np.fromiter((self._places.get(key, -1) for key in keys), np.int64, len(keys))

    def without(self, numbers: set[int]) -> "Lines":
        """Return the lines that have none of some numbers."""
        kept = np.array(
            [row for row, own in enumerate(self.numbers.tolist()) if own not in numbers], np.int64
        )
        return Lines(self.ids.take(kept), self.column.take(kept), self.numbers[kept])

    def first_out_of_order(self) -> tuple[str, str] | None:
        """Return the first two keys that are not in C order; None if all are."""
        return next(((before, key) for before, key in pairwise(self.ids) if key < before), None)

    def _line(self, row: int) -> Line:
        return Line(int(self.numbers[row]), self.column[row])

    @cached_property
    def _places(self) -> dict[str, int]:
        return {key: row for row, key in enumerate(self.ids)}


class Builder:
    """Make columns of the lines of a table. Keys are kept as objects only if they are out of order."""

    def __init__(self, *, has_few_values: bool):
        self.has_few_values = has_few_values
        self._ids: list[Strings] = []
        self._columns: list[Strings | np.ndarray] = []
        self._numbers: list[np.ndarray] = []
        self._waiting: tuple[list[str], list[str], list[int]] = ([], [], [])  # keys, values, numbers
        self._codes: dict[str, int] = {}
        self._last = ""  # the greatest key, while all are in order
        self._first: dict[str, int] | None = None  # the line of each key, once they are not

    def add_all(self, first: int, keys: Sequence[str], values: Sequence[str]) -> bool:
        """Add lines that are numbered from `first`; if a key is a duplicate, return False and add none."""
        numbers = range(first, first + len(keys))
        if self._first is None and self._last < keys[0] and all(map(lt, keys, islice(keys, 1, None))):
            self._last = keys[-1]
        else:
            known, added = self._known(), dict(zip(keys, numbers, strict=True))
            if len(added) < len(keys) or not added.keys().isdisjoint(known):
                return False
            known.update(added)
        self._keep_waiting()
        self._keep(keys, values, numbers)
        return True

    def add(self, number: int, key: str, value: str) -> int | None:
        """Add a line; if its key is a duplicate, return the number of the first line with it and add none."""
        if self._first is None and self._last < key:
            self._last = key
        elif key in self._known():
            return self._first[key]
        else:
            self._first[key] = number
        for column, item in zip(self._waiting, (key, value, number), strict=True):
            column.append(item)
        return None

    def finish(self) -> Lines:
        """Return all lines."""
        self._keep_waiting()
        numbers = np.concatenate([np.zeros(0, np.int32), *self._numbers])
        if self.has_few_values:
            codes = np.concatenate([np.zeros(0, np.int32), *self._columns])
            return Lines(Strings.concatenate(self._ids), Names(self._codes, codes), numbers)
        return Lines(Strings.concatenate(self._ids), Strings.concatenate(self._columns), numbers)

    def _known(self) -> dict[str, int]:
        if self._first is None:
            self._keep_waiting()
            ids = (key for part in self._ids for key in part)
            numbers = (number for part in self._numbers for number in part.tolist())
            self._first = dict(zip(ids, numbers, strict=True))
        return self._first

    def _keep_waiting(self) -> None:
        if self._waiting[0]:
            self._keep(*self._waiting)
            self._waiting = ([], [], [])

    def _keep(self, keys: Sequence[str], values: Sequence[str], numbers: Sequence[int]) -> None:
        self._ids.append(Strings.of(keys))
        self._numbers.append(np.array(numbers, np.int32))
        if self.has_few_values:
            codes = (self._codes.setdefault(value, len(self._codes)) for value in values)
            self._columns.append(np.fromiter(codes, np.int32, len(values)))
        else:
            self._columns.append(Strings.of(values))


NO_LINES = Builder(has_few_values=False).finish()
