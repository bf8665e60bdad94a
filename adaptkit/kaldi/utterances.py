"""Utterances, and sets of utterances as columns, which take the memory of their text."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from adaptkit.kaldi.columns import Names, Strings

_CHUNK = 1 << 15  # number of utterances that are objects at a time


@dataclass(frozen=True)
class Utterance:
    """A segment of one speaker's speech; `end_sec` is None if it extends to the end of its recording."""

    utt_id: str
    speaker: str
    recording: str
    text: str
    start_sec: float = 0.0
    end_sec: float | None = None
    task: str = ""  # a speaker or a domain; the speaker if the directory has no utt2task
    group: str = ""  # for results by group, such as `child`; empty without utt2group or spk2group

    def __post_init__(self) -> None:
        if not self.task:
            object.__setattr__(self, "task", self.speaker)


@dataclass(frozen=True, eq=False)
class Utterances(Sequence[Utterance]):
    """Utterances as columns, each of which becomes an `Utterance` on access.

    Code that visits a whole corpus reads the columns instead: an object takes a microsecond and 500 bytes.
    """

    ids: Strings
    speakers: Names
    recordings: Strings | Names
    texts: Strings
    starts_sec: np.ndarray  # (N,) float64
    ends_sec: np.ndarray  # (N,) float64, NaN for the end of the recording
    tasks: Names
    groups: Names

    __hash__ = None

    @classmethod
    def of(cls, utterances: Iterable[Utterance]) -> "Utterances":
        """Return utterances as columns.

        >>> Utterances.of([Utterance("a-1", "a", "call", "YES", 0.5, 2.0)])[0].end_sec
        2.0
        """
        if isinstance(utterances, Utterances):
            return utterances
        parts, source = [], iter(utterances)
        while (chunk := list(islice(source, _CHUNK))) or not parts:
            parts.append(cls._of_some(chunk))
        return parts[0] if len(parts) == 1 else cls._concatenate(parts)

    @classmethod
    def _of_some(cls, some: Sequence[Utterance]) -> "Utterances":
        ends = (np.nan if u.end_sec is None else u.end_sec for u in some)
        return cls(
            ids=Strings.of(u.utt_id for u in some),
            speakers=Names.of(u.speaker for u in some),
            recordings=Strings.of(u.recording for u in some),
            texts=Strings.of(u.text for u in some),
            starts_sec=np.fromiter((u.start_sec for u in some), np.float64, len(some)),
            ends_sec=np.fromiter(ends, np.float64, len(some)),
            tasks=Names.of(u.task for u in some),
            groups=Names.of(u.group for u in some),
        )

    @classmethod
    def _concatenate(cls, parts: Sequence["Utterances"]) -> "Utterances":
        return cls(
            ids=Strings.concatenate([part.ids for part in parts]),
            speakers=Names.of(name for part in parts for name in part.speakers),
            recordings=Strings.concatenate([part.recordings for part in parts]),
            texts=Strings.concatenate([part.texts for part in parts]),
            starts_sec=np.concatenate([part.starts_sec for part in parts]),
            ends_sec=np.concatenate([part.ends_sec for part in parts]),
            tasks=Names.of(name for part in parts for name in part.tasks),
            groups=Names.of(name for part in parts for name in part.groups),
        )

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int | slice) -> "Utterance | Utterances":
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        end_sec = float(self.ends_sec[index])
        return Utterance(
            self.ids[index],
            self.speakers[index],
            self.recordings[index],
            self.texts[index],
            float(self.starts_sec[index]),
            None if np.isnan(end_sec) else end_sec,
            self.tasks[index],
            self.groups[index],
        )

    def __iter__(self) -> Iterator[Utterance]:
        ends = (None if end != end else end for end in _floats(self.ends_sec))  # NaN differs from itself
        columns = (self.ids, self.speakers, self.recordings, self.texts, _floats(self.starts_sec), ends)
        return map(Utterance, *columns, self.tasks, self.groups)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    def take(self, rows: np.ndarray) -> "Utterances":
        """Return the utterances of some rows, in their order."""
        ids = self.ids.take(rows)
        return Utterances(
            ids=ids,
            speakers=self.speakers.take(rows),
            recordings=ids if self.recordings is self.ids else self.recordings.take(rows),
            texts=self.texts.take(rows),
            starts_sec=self.starts_sec[rows],
            ends_sec=self.ends_sec[rows],
            tasks=self.tasks.take(rows),
            groups=self.groups.take(rows),
        )

    def sorted(self) -> "Utterances":
        """Return the utterances in the C order of their ids."""
        ids = list(self.ids)
        if all(a <= b for a, b in zip(ids, ids[1:], strict=False)):  # C order is that of code points
            return self
        return self.take(np.array(sorted(range(len(ids)), key=ids.__getitem__)))


def _floats(column: np.ndarray) -> Iterator[float]:
    for start in range(0, len(column), _CHUNK):
        yield from column[start : start + _CHUNK].tolist()
