"""Columns of strings, which take the bytes of their text rather than an object per string."""

from array import array
from collections.abc import ItemsView, Iterable, Iterator, Mapping, Sequence, ValuesView
from itertools import chain, islice
from operator import index as as_index
from typing import Generic, TypeVar

import numpy as np

_CHUNK = 1 << 15  # number of strings that are objects at a time
_KEPT = "surrogatepass"  # names of files on the command line may not be UTF-8

Value = TypeVar("Value")


class Strings(Sequence[str]):
    """Strings as UTF-8 in one buffer, each made into an object on access."""

    __slots__ = ("_content", "_ends")
    __hash__ = None

    def __init__(self, content: bytes, ends: np.ndarray):
        self._content = content
        self._ends = ends  # (N,) the byte after each string

    @classmethod
    def of(cls, strings: Iterable[str]) -> "Strings":
        """Return a column of strings.

        >>> list(Strings.of(["one", "zwölf", ""])[1:])
        ['zwölf', '']
        """
        if isinstance(strings, Strings):
            return strings
        parts, source = [], iter(strings)
        while chunk := list(islice(source, _CHUNK)):
            content = "".join(chunk).encode(errors=_KEPT)
            is_ascii = len(content) == sum(map(len, chunk))
            sizes = map(len, chunk if is_ascii else [one.encode(errors=_KEPT) for one in chunk])
            parts.append(cls(content, np.cumsum(np.fromiter(sizes, np.int64, len(chunk)))))
        return cls.concatenate(parts)

    @classmethod
    def concatenate(cls, parts: Sequence["Strings"]) -> "Strings":
        """Return the concatenated strings of several columns."""
        if len(parts) == 1:
            return parts[0]
        starts = np.cumsum([0, *(len(part._content) for part in parts)])
        ends = [part._ends + start for part, start in zip(parts, starts, strict=False)]
        content = b"".join(part._content for part in parts)
        return cls(content, np.concatenate([np.empty(0, np.int64), *ends]))

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int | slice) -> "str | Strings":
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            return self._between(start, stop) if step == 1 else self.take(np.arange(start, stop, step))
        return self.encoded(index).decode(errors=_KEPT)

    def __iter__(self) -> Iterator[str]:
        return chain.from_iterable(self.chunks())

    def chunks(self) -> Iterator[list[str]]:
        """Yield the strings in lists of some 10,000."""
        for start in range(0, len(self), _CHUNK):
            part = self[start : start + _CHUNK]
            yield _cut(part._content, part._ends.tolist())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Strings):
            return NotImplemented
        return self._content == other._content and np.array_equal(self._ends, other._ends)

    def encoded(self, index: int) -> bytes:
        """Return one string as UTF-8, the order of which is C order."""
        place = as_index(index)
        place += len(self) if place < 0 else 0
        if not 0 <= place < len(self):
            raise IndexError(f"string {index} of {len(self)}")
        return self._content[int(self._ends[place - 1]) if place else 0 : int(self._ends[place])]

    def _between(self, start: int, stop: int) -> "Strings":
        first, last = (int(self._ends[place - 1]) if place else 0 for place in (start, max(start, stop)))
        return Strings(self._content[first:last], self._ends[start:stop] - first)

    def take(self, rows: np.ndarray) -> "Strings":
        """Return the strings of some rows, in their order."""
        return Strings.of(map(self.__getitem__, rows.tolist()))

    def any_empty(self) -> bool:
        """Whether any string is empty."""
        return bool((np.diff(self._ends, prepend=0) == 0).any())

    def any(self) -> bool:
        """Whether any string is not empty."""
        return bool(self._content)


class Names(Sequence[str]):
    """Strings with few distinct values, such as speakers, stored as indices into a list."""

    __slots__ = ("codes", "names")
    __hash__ = None

    def __init__(self, names: Sequence[str], codes: np.ndarray):
        self.names = tuple(names)
        self.codes = codes  # (N,) places of the names

    @classmethod
    def of(cls, strings: Iterable[str]) -> "Names":
        """Return a column of strings that holds each distinct one once.

        >>> Names.of(["bob", "anna", "bob"]).used()
        ['anna', 'bob']
        """
        if isinstance(strings, Names):
            return strings
        places: dict[str, int] = {}
        codes = np.fromiter((places.setdefault(name, len(places)) for name in strings), np.int32)
        return cls(tuple(places), codes)

    @classmethod
    def constant(cls, name: str, count: int) -> "Names":
        """Return a column that repeats one name."""
        return cls((name,), np.zeros(count, np.int32))

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, index: int | slice) -> "str | Names":
        if isinstance(index, slice):
            return Names(self.names, self.codes[index])
        return self.names[self.codes[index]]

    def __iter__(self) -> Iterator[str]:
        return map(self.names.__getitem__, self.codes.tolist())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Names):
            return NotImplemented
        if self.names == other.names:
            return np.array_equal(self.codes, other.codes)
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    def take(self, rows: np.ndarray) -> "Names":
        """Return the names of some rows, in their order."""
        return Names(self.names, self.codes[rows])

    def used(self) -> list[str]:
        """Return the distinct names, sorted in C order."""
        return sorted({self.names[code] for code in np.unique(self.codes).tolist()}, key=str.encode)


class Table(Mapping[str, Value], Generic[Value]):
    """A mapping of a column of keys, in C order and found by bisection, to a column of values."""

    __slots__ = ("column", "ids")
    __hash__ = None

    def __init__(self, ids: Strings, column: Sequence[Value]):
        self.ids, self.column = ids, column

    @classmethod
    def of(cls, table: Mapping[str, str]) -> "Table[str]":
        """Return the table of a mapping to strings.

        >>> dict(Table.of({"b": "2", "a": "1"}))
        {'a': '1', 'b': '2'}
        """
        if isinstance(table, Table):
            return table
        keys = sorted(table, key=str.encode)
        return cls(Strings.of(keys), Strings.of(table[key] for key in keys))

    @classmethod
    def of_floats(cls, table: Mapping[str, float]) -> "Table[float]":
        """Return the table of a mapping to floats."""
        if isinstance(table, Table):
            return table
        keys = sorted(table, key=str.encode)
        return cls(Strings.of(keys), array("d", map(table.__getitem__, keys)))

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[str]:
        return iter(self.ids)

    def __getitem__(self, key: str) -> Value:
        row = self._find(key) if isinstance(key, str) else -1
        if row < 0:
            raise KeyError(key)
        return self.column[row]

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self._find(key) >= 0

    def items(self) -> ItemsView[str, Value]:
        """Return the keys with their values."""
        return _Items(self)

    def values(self) -> ValuesView[Value]:
        """Return the values in the order of the keys."""
        return _Values(self)

    def rows(self, keys: Sequence[str]) -> np.ndarray:
        """Return the row of each key (N,); -1 where there is none."""
        if isinstance(keys, Strings) and (keys is self.ids or keys == self.ids):
            return np.arange(len(keys))
        if isinstance(keys, Names):
            return self.rows(keys.names)[keys.codes]
        return np.fromiter(map(self._find, keys), np.int64, len(keys))

    def _find(self, key: str) -> int:
        sought, low, high = key.encode(errors=_KEPT), 0, len(self.ids)
        encoded = self.ids.encoded
        while low < high:
            middle = (low + high) // 2
            if encoded(middle) < sought:
                low = middle + 1
            else:
                high = middle
        return low if low < len(self.ids) and encoded(low) == sought else -1


class _Items(ItemsView):
    """The items of a table, without a search per key."""

    def __iter__(self) -> Iterator[tuple[str, object]]:
        return zip(self._mapping.ids, self._mapping.column, strict=True)


class _Values(ValuesView):
    """The values of a table, without a search per key."""

    def __iter__(self) -> Iterator[object]:
        return iter(self._mapping.column)


def _cut(content: bytes, ends: list[int]) -> list[str]:
    """Cut strings out of UTF-8; in ASCII, bytes are characters."""
    text = content.decode(errors=_KEPT)
    starts = [0, *ends[:-1]]
    if len(text) == len(content):
        return [text[start:end] for start, end in zip(starts, ends, strict=True)]
    return [content[start:end].decode(errors=_KEPT) for start, end in zip(starts, ends, strict=True)]
