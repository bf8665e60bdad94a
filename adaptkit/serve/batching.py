"""The queue of requests waiting for the model, and the batches formed from it."""

import threading
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field
from time import perf_counter

from torch import Tensor

from adaptkit.decoding.transcripts import Word
from adaptkit.serve.schemas import Alternative, Routed, SubmodelUsed


@dataclass(frozen=True)
class Found:
    """The result of one row of a batch, with the timings of the batch."""

    nbest: tuple[Alternative, ...]  # the best first
    submodel: SubmodelUsed | None
    queue_sec: float
    route_sec: float
    load_sec: float
    model_sec: float
    batch_size: int
    batch_speakers: int
    route: Routed | None = None  # how the Submodel was chosen, if not by name
    tokens: tuple[int, ...] = ()  # of the best hypothesis
    words: tuple[Word, ...] | None = None  # of the best with their times, if asked for and known


@dataclass(frozen=True, eq=False)
class Waiting:
    """A request that waits for the model, compared by identity."""

    inputs: Tensor  # features (T, F), or speech (N,)
    num_frames: int  # feature frames, which count towards the batch limit
    speaker: str | None  # whose Submodel to use; None for the base model
    found: "Future[Found]" = field(default_factory=Future)
    since_sec: float = field(default_factory=perf_counter)
    is_dropped: threading.Event = field(default_factory=threading.Event)
    is_routed: bool = False  # the model thread chooses the Submodel, since nobody has named the speaker
    timed_sec: float | None = None  # duration of the audio, if the times of words are asked for
    num_tries: int = 1  # Submodels may be removed after they were chosen


@dataclass(frozen=True)
class Room:
    """The limits of a batch."""

    num_rows: int
    num_frames: int  # including padding; a longer request forms a batch of its own
    num_speakers: int  # distinct speakers, not counting resident ones
    resident: frozenset[str] = frozenset()  # speakers whose Submodels stay in memory
    mixes_lengths: bool = True  # false if the rows of a batch must be equally long
    mixes_speakers: bool = True  # false if each speaker changes weights of the encoder
    num_routed: int = 4  # requests whose Submodels are chosen first, one after the other, while all wait

    def admits(self, batch: list[Waiting], item: Waiting) -> bool:
        """Return whether a request may join a batch; any may join an empty one."""
        if not batch:
            return True
        together = [*batch, item]
        longest = max(row.num_frames for row in together)
        speakers = {row.speaker for row in together if row.speaker is not None}
        num_routed = sum(row.is_routed for row in together)  # to anybody
        fits = len(together) <= self.num_rows and longest * len(together) <= self.num_frames
        return (
            fits
            and num_routed <= self.num_routed
            and len(speakers - self.resident) + num_routed <= self.num_speakers
            and (self.mixes_lengths or len(item.inputs) == len(batch[0].inputs))
            and (self.mixes_speakers or (item.speaker == batch[0].speaker and not num_routed))
        )


class Queue:
    """Requests in the order of their arrival; thread-safe."""

    def __init__(self, room: Room):
        self.room = room
        self._items: deque[Waiting] = deque()
        self._changed = threading.Condition()
        self._is_closed = False

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: Waiting) -> None:
        """Append a request."""
        with self._changed:
            self._items.append(item)
            self._changed.notify()

    def drop(self, item: Waiting) -> None:
        """Cancel a request; if it was taken already, its search ends early or its result is discarded."""
        item.is_dropped.set()
        item.found.cancel()
        with self._changed:
            if item in self._items:
                self._items.remove(item)

    def take(self) -> list[Waiting]:
        """Wait for a request and return it with later ones that fit; empty once closed and drained.

        The oldest request is always taken, so that none waits forever.
        """
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._items or self._is_closed)
                batch = self._fill()
                self._items = deque(item for item in self._items if item not in batch)
                batch = [item for item in batch if item.found.set_running_or_notify_cancel()]
                if batch or not self._items and self._is_closed:
                    return batch

    def close(self) -> None:
        """Make `take` return an empty batch once all requests are taken."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def _fill(self) -> list[Waiting]:
        batch: list[Waiting] = []
        for item in self._items:
            if self.room.admits(batch, item):
                batch.append(item)
        return batch
