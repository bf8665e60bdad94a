"""Group utterances into batches, and load their features or speech, tokens and tasks as tensors."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

from adaptkit.data.dataset import Example, Examples, Group
from adaptkit.errors import AdaptkitError


@dataclass(frozen=True)
class Batch:
    """Padded utterances of one or several tasks."""

    utt_ids: tuple[str, ...]
    task_ids: tuple[int, ...]  # one per row (B); -1 is the base model itself
    inputs: Tensor  # features (B, T, F), speech (B, N) or encoder outputs, see `has_taps`
    lengths: Tensor  # (B,) frames or samples
    tokens: Tensor  # (B, L), padded with -1 as ESPnet expects
    token_lengths: Tensor  # (B,)
    has_taps: bool = False  # inputs are outputs of blocks and encoder, concatenated (B, U, (K' + 1) D)
    mask_keys: Tensor | None = None  # (B,) random key of each row; None without augmentation
    is_masked: Tensor | None = None  # (B,) which rows are masked
    inner_ctc: Tensor | None = None  # (B,) loss of intermediate CTC, with `has_taps`

    def to(self, device: torch.device | str) -> "Batch":
        """Return the batch with its tensors on a device."""
        return replace(self, **{name: tensor.to(device) for name, tensor in self._tensors().items()})

    def rows(self, chosen: Sequence[int]) -> "Batch":
        """Return some rows, trimmed to the longest of them."""
        taken = {name: tensor[chosen] for name, tensor in self._tensors().items()}
        taken["inputs"] = taken["inputs"][:, : int(taken["lengths"].max())]
        taken["tokens"] = taken["tokens"][:, : int(taken["token_lengths"].max())]
        return replace(
            self,
            utt_ids=tuple(self.utt_ids[row] for row in chosen),
            task_ids=tuple(self.task_ids[row] for row in chosen),
            **taken,
        )

    def of_task(self, task_id: int) -> "Batch":
        """Return the batch with all rows assigned to one task."""
        return replace(self, task_ids=(task_id,) * len(self.utt_ids))

    def repeated(self, task_ids: Sequence[int]) -> "Batch":
        """Return the one utterance of the batch as a row for each task, without copies of its tensors."""
        num_rows = len(task_ids)
        rows = {name: t.expand(num_rows, *t.shape[1:]) for name, t in self._tensors().items()}
        return replace(self, utt_ids=self.utt_ids * num_rows, task_ids=tuple(task_ids), **rows)

    def _tensors(self) -> dict[str, Tensor]:
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in named.items() if isinstance(value, Tensor)}


def collate(examples: Sequence[Example]) -> Batch:
    """Pad examples into a batch."""
    inputs, tokens = [example.inputs for example in examples], [example.tokens for example in examples]
    chosen = [example.chosen for example in examples if example.chosen]
    inner = [example.inner_ctc for example in examples if example.inner_ctc is not None]
    return Batch(
        utt_ids=tuple(example.utterance.utt_id for example in examples),
        task_ids=tuple(example.task_id for example in examples),
        inputs=pad_sequence(inputs, batch_first=True),
        lengths=torch.tensor([len(x) for x in inputs]),
        tokens=pad_sequence(tokens, batch_first=True, padding_value=-1),
        token_lengths=torch.tensor([len(x) for x in tokens]),
        mask_keys=torch.tensor([one.key for one in chosen]) if chosen else None,
        is_masked=torch.tensor([one.is_masked for one in chosen]) if chosen else None,
        inner_ctc=torch.tensor(inner) if inner else None,
    )


def load_batches(examples: Examples, plan: Sequence[Sequence[int]], num_workers: int = 0) -> Iterator[Batch]:
    """Load the planned batches in order, in this process or ahead of time in `num_workers` processes."""
    generator = torch.Generator().manual_seed(0)  # otherwise the loader draws from the global state
    loader = DataLoader(
        _Planned(examples, plan), batch_size=None, num_workers=num_workers, generator=generator
    )
    for loaded in loader:
        if isinstance(loaded, AdaptkitError):
            raise loaded
        yield loaded


@dataclass(frozen=True)
class _Planned(Dataset):
    """The batches of a plan; if one cannot be loaded, the error is returned in its place.

    An error raised in another process would reach this one with a traceback in its message.
    """

    examples: Examples
    plan: Sequence[Sequence[int]]

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, index: int) -> Batch | AdaptkitError:
        try:
            batch = collate([self.examples[row] for row in self.plan[index]])
            return replace(batch, has_taps=self.examples.taps is not None)
        except AdaptkitError as error:
            return error


class BatchPlan(Sequence[list[int]]):
    """Batches of utterances by index, stored as arrays; each batch becomes a list on access."""

    __hash__ = None

    def __init__(self, order: np.ndarray, bounds: np.ndarray, turns: np.ndarray):
        self._order = order  # (N,) utterances, batch after batch
        self._bounds = bounds  # (B + 1,) of the batches in `order`
        self._turns = turns  # of the batches, in the order of use

    def __len__(self) -> int:
        return len(self._turns)

    def __getitem__(self, index: int | slice) -> "list[int] | BatchPlan":
        if isinstance(index, slice):
            return BatchPlan(self._order, self._bounds, self._turns[index])
        place = self._turns[index]
        return self._order[self._bounds[place] : self._bounds[place + 1]].tolist()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))


def plan_batches(
    lengths: Sequence[int], batch_frames: int, *, groups: Sequence[Group] | None = None
) -> BatchPlan:
    """Batch utterances of similar length, longest first, at most `batch_frames` per batch with padding.

    An utterance longer than that has a batch of its own. Utterances of different `groups` never share a
    batch.

    >>> list(plan_batches([10, 30, 11, 29], 60))
    [[1, 3], [2, 0]]
    >>> list(plan_batches([10, 30, 11, 29], 60, groups=[(0,), (1,), (0,), (0,)]))
    [[1], [3, 2], [0]]
    """
    frames, ranks = np.asarray(lengths, np.int64), _rank(groups, len(lengths))
    order = np.lexsort((-frames, ranks))
    bounds = _fill(frames[order], ranks[order], batch_frames)
    return BatchPlan(order, bounds, np.argsort(-frames[order[bounds[:-1]]], kind="stable"))


def shuffle_batches(
    lengths: Sequence[int],
    batch_frames: int,
    *,
    seed: int,
    epoch: int,
    groups: Sequence[Group] | None = None,
) -> BatchPlan:
    """Plan the batches of a training epoch: similar lengths, shuffled differently in every epoch."""
    generator = random.Random(f"{seed} {epoch}")
    frames, ranks = np.asarray(lengths, np.int64), _rank(groups, len(lengths))
    order = _shuffled(len(frames), generator)
    # lengths within a twentieth of the longest count as equal, so that batches vary
    classes = -(20 * frames // frames.max())
    order = order[np.lexsort((classes[order], ranks[order]))]
    bounds = _fill(frames[order], ranks[order], batch_frames)
    return BatchPlan(order, bounds, _shuffled(len(bounds) - 1, generator))


def _shuffled(count: int, generator: random.Random) -> np.ndarray:
    numbers = list(range(count))
    generator.shuffle(numbers)
    return np.array(numbers, np.int64)


def _rank(groups: Sequence[Group] | None, count: int) -> np.ndarray:
    """Return the place of each utterance's group among all of them."""
    if groups is None:
        return np.zeros(count, np.int64)
    places = {group: place for place, group in enumerate(sorted(set(groups)))}
    return np.fromiter(map(places.__getitem__, groups), np.int64, count)


def _fill(frames: np.ndarray, ranks: np.ndarray, most_frames: int) -> np.ndarray:
    """Fill batches with utterances in order, starting a new one if the last is full or of another group.

    Returns the start of each batch, and the end of the last.
    """
    starts: list[int] = []
    longest = size = 0
    group = None
    for place, (length, rank) in enumerate(zip(frames.tolist(), ranks.tolist(), strict=True)):
        longest, size = max(longest, length), size + 1
        if rank != group or longest * size > most_frames:
            starts.append(place)
            longest, size, group = length, 1, rank
    return np.array([*starts, len(frames)], np.int64)
