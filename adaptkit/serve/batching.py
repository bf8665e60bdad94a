"""The queue of requests that wait for the model, and the batches that are taken from it."""

import threading
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field
from time import perf_counter

from torch import Tensor

from adaptkit.serve.schemas import SubmodelUsed


@dataclass(frozen=True)
class Found:
    """What the model found in one row of a batch, and what the batch cost."""

    text: str
    score: float
    submodel: SubmodelUsed | None
    queue_sec: float
    load_sec: float
    model_sec: float
    batch_size: int
    batch_speakers: int


@dataclass(frozen=True, eq=False)
class Waiting:
    """A request that waits for the model; two are never equal."""

    inputs: Tensor  # features (T, F), or speech (N,)
    num_frames: int  # of features, which the batch's limit counts
    speaker: str | None  # whose Submodel; None is the base model itself
    found: "Future[Found]" = field(default_factory=Future)
    since_sec: float = field(default_factory=perf_counter)


@dataclass(frozen=True)
class Room:
    """What a batch can hold."""

    num_rows: int
    num_frames: int  # with padding; one longer than that is a batch of its own
    num_speakers: int  # different ones, beside those that always have a place
    resident: frozenset[str] = frozenset()  # which those are
    mixes_lengths: bool = True  # false where rows of one batch must be equally long
    mixes_speakers: bool = True  # false where each speaker changes the base's own weights

    def admits(self, batch: list[Waiting], item: Waiting) -> bool:
        """Say whether an item may join a batch; to an empty one any may."""
        if not batch:
            return True
        together = [*batch, item]
        longest = max(row.num_frames for row in together)
        speakers = {row.speaker for row in together if row.speaker is not None}
        fits = len(together) <= self.num_rows and longest * len(together) <= self.num_frames
        return (
            fits
            and len(speakers - self.resident) <= self.num_speakers
            and (self.mixes_lengths or len(item.inputs) == len(batch[0].inputs))
            and (self.mixes_speakers or item.speaker == batch[0].speaker)
        )


class Queue:
    """Requests in the order of their arrival, safe with threads."""

    def __init__(self, room: Room):
        self.room = room
        self._items: deque[Waiting] = deque()
        self._changed = threading.Condition()
        self._is_closed = False

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: Waiting) -> None:
        """Add an item at the end."""
        with self._changed:
            self._items.append(item)
            self._changed.notify()

    def drop(self, item: Waiting) -> None:
        """Give up an item; one that was taken already only loses whom to answer."""
        item.found.cancel()
        with self._changed:
            if item in self._items:
                self._items.remove(item)

    def take(self) -> list[Waiting]:
        """Wait for an item and take it with those after it that fit; nothing once closed and empty.

        The oldest is always taken, so that none waits for ever.
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
        """Let `take` end when the last item is taken."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def _fill(self) -> list[Waiting]:
        batch: list[Waiting] = []
        for item in self._items:
            if self.room.admits(batch, item):
                batch.append(item)
        return batch
