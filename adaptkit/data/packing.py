"""Pack the batches of many tasks into steps, in time that hardly grows with the number of tasks.

A step begins with a batch of the task with the most batches left, and is filled with the batches closest in
length: first from tasks with about as many left, then from any task. The next batch of every task is kept on
a shelf for its group and size, sorted by length, so that the closest one that fits is found by bisection;
packing takes O(n log n) for n batches.
"""

import heapq
import sys
from bisect import bisect_left, bisect_right, insort
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from adaptkit.data.dataset import Group
from adaptkit.data.sampler import Batches, StepLimits, TrainingSet

_Entry = tuple[str, int]  # a task, and the number of batches it had left when put there


def plan_steps(own: Mapping[str, Batches], data: TrainingSet, limits: StepLimits) -> list[list[Batches]]:
    """Plan the steps of an epoch from each task's batches, with at most one of each task in a step."""
    waiting = _Waiting({task: batches for task, batches in own.items() if batches}, data, limits)
    steps = []
    while waiting.most_left:
        step = waiting.fill_step()
        steps.append([batch.indices for batch in step])
    return steps


@dataclass
class _Batch:
    """Utterances that share a batch: their indices, longest length in frames, and group."""

    indices: list[int]
    longest: int
    group: Group

    def bound(self, num_more: int, batch_frames: int) -> int:
        """Return the greatest length of `num_more` more utterances that fit into the batch; -1 if none do."""
        longest = batch_frames // (len(self.indices) + num_more)
        return longest if self.longest <= longest else -1

    def add(self, other: "_Batch") -> None:
        """Add the utterances of another batch."""
        self.indices += other.indices
        self.longest = max(self.longest, other.longest)


@dataclass
class _Shelf:
    """Tasks by the length of their next batch; outdated entries are dropped when found."""

    is_valid: Callable[[_Entry], bool]
    lengths: list[int] = field(default_factory=list)  # sorted, without duplicates
    entries: dict[int, list[_Entry]] = field(default_factory=dict)  # a heap for each length

    def put(self, length: int, entry: _Entry) -> None:
        """Put a task on the shelf."""
        if length not in self.entries:
            insort(self.lengths, length)
            self.entries[length] = []
        heapq.heappush(self.entries[length], entry)

    def closest(self, length: int, bound: int) -> tuple[int, str] | None:
        """Return the distance and the task closest to a length and no longer than a bound; None if none is.

        Of equally close tasks, the first by name is returned.
        """
        found = [self._first_from(bisect_right(self.lengths, min(length, bound)) - 1, -1, bound)]
        if bound > length:
            found.append(self._first_from(bisect_left(self.lengths, length + 1), 1, bound))
        near = [(abs(one[0] - length), one[1]) for one in found if one is not None]
        return min(near, default=None)

    def _first_from(self, place: int, step: int, bound: int) -> tuple[int, str] | None:
        """Return the first length from a place on, in one direction, with its first task."""
        while 0 <= place < len(self.lengths) and self.lengths[place] <= bound:
            length = self.lengths[place]
            heap = self.entries[length]
            while heap and not self.is_valid(heap[0]):
                heapq.heappop(heap)
            if heap:
                return length, heap[0][0]
            del self.lengths[place], self.entries[length]
            place += min(step, 0)
        return None


class _Shelves:
    """Tasks with about as many batches left, together and by the group and size of their next batch."""

    def __init__(self, is_valid: Callable[[_Entry], bool]):
        self.is_valid = is_valid
        self.of_any = _Shelf(is_valid)
        self.by_group: dict[Group, dict[int, _Shelf]] = defaultdict(dict)

    def put(self, batch: _Batch, entry: _Entry) -> None:
        """Put a task on the shelves by its next batch."""
        self.of_any.put(batch.longest, entry)
        sizes = self.by_group[batch.group]
        if len(batch.indices) not in sizes:
            sizes[len(batch.indices)] = _Shelf(self.is_valid)
        sizes[len(batch.indices)].put(batch.longest, entry)

    def closest(self, length: int, step: Sequence[_Batch], batch_frames: int) -> str | None:
        """Return the task closest in length whose next batch fits into one of a step; None if none does."""
        found = (
            shelf.closest(length, bound)
            for batch in step
            for size, shelf in self.by_group.get(batch.group, {}).items()
            if (bound := batch.bound(size, batch_frames)) >= 0
        )
        return min((one for one in found if one is not None), default=(0, None))[1]


class _Waiting:
    """The remaining batches of every task, from which steps are filled."""

    def __init__(self, own: Mapping[str, Batches], data: TrainingSet, limits: StepLimits):
        self.own, self.data, self.limits = own, data, limits
        self.left = {task: len(batches) for task, batches in own.items()}
        self.by_left = [(-left, number, task) for number, (task, left) in enumerate(self.left.items())]
        heapq.heapify(self.by_left)
        self.numbers = {task: number for number, task in enumerate(own)}
        self.heads: dict[str, _Batch] = {}
        self.most_left = max(self.left.values(), default=0)
        self.near = _Shelves(lambda entry: self.left[entry[0]] == entry[1])
        self.far = _Shelves(lambda entry: self.left[entry[0]] == entry[1] and entry[1] < self.most_left - 1)
        self.behind: dict[int, deque[str]] = defaultdict(deque)  # tasks on the far shelves, by batches left
        for task in own:
            self._put(task)

    def fill_step(self) -> list[_Batch]:
        """Take the batches of a step."""
        first = self.by_left[0][2]
        step, taken, length = [], [], self.heads[first].longest
        task: str | None = first
        while task is not None:
            self._place(self.heads[task], step)
            self.left[task] -= 1
            taken.append(task)
            task = self._closest(length, step)
        for task in taken:
            self._put(task, is_new=False)
        self._settle()
        return step

    def _closest(self, length: int, step: Sequence[_Batch]) -> str | None:
        """Return the next task of a step: the closest in length of those that fit, first on near shelves."""
        for shelves in (self.near, self.far):
            if len(step) < self.limits.accumulate:  # any fits, if necessary into a new batch
                found = shelves.of_any.closest(length, sys.maxsize)
                task = found and found[1]
            else:
                task = shelves.closest(length, step, self.limits.batch_frames)
            if task is not None:
                return task
        return None

    def _place(self, own: _Batch, step: list[_Batch]) -> None:
        """Add a task's batch to the first batch of a step into which it fits, or as a new batch."""
        for batch in step:
            bound = batch.bound(len(own.indices), self.limits.batch_frames)
            if own.longest <= bound and batch.group == own.group:
                batch.add(own)
                return
        step.append(_Batch(list(own.indices), own.longest, own.group))

    def _put(self, task: str, *, is_new: bool = True) -> None:
        """Put a task on the shelves by its next batch, if there is one."""
        left = self.left[task]
        if not is_new and left:
            heapq.heappush(self.by_left, (-left, self.numbers[task], task))
        if not left:
            return
        indices = self.own[task][-left]
        longest = max(self.data.lengths[index] for index in indices)
        self.heads[task] = _Batch(indices, longest, self.data.groups[indices[0]])
        if left >= self.most_left - 1:
            self.near.put(self.heads[task], (task, left))
        else:
            self.far.put(self.heads[task], (task, left))
            self.behind[left].append(task)

    def _settle(self) -> None:
        """Find the largest number of batches left, and put tasks with about as many on near shelves."""
        while self.by_left and self.left[self.by_left[0][2]] != -self.by_left[0][0]:
            heapq.heappop(self.by_left)
        before, self.most_left = self.most_left, -self.by_left[0][0] if self.by_left else 0
        for left in range(max(1, self.most_left - 1), before - 1):
            for task in self.behind.pop(left, ()):
                if self.left[task] == left:
                    self.near.put(self.heads[task], (task, left))
