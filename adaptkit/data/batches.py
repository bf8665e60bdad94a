"""Group utterances into batches, and load their features or speech, tokens and tasks as tensors."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace

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
    task_ids: tuple[int, ...]  # B of them; -1 is the base itself
    inputs: Tensor  # features (B, T, F), speech (B, N) or encoder outputs, see `has_taps`
    lengths: Tensor  # (B,) frames or samples
    tokens: Tensor  # (B, L), padded with -1 as ESPnet expects
    token_lengths: Tensor  # (B,)
    has_taps: bool = False  # inputs are blocks' outputs and the encoder's, side by side (B, U, (K' + 1) D)
    mask_keys: Tensor | None = None  # (B,) random key of each row; None without augmentation
    is_masked: Tensor | None = None  # (B,) which rows are masked
    inner_ctc: Tensor | None = None  # (B,) what intermediate CTC adds to the loss, with `has_taps`

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
    """Load the planned batches in order, in this process or ahead of time in `num_workers` others."""
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


def plan_batches(
    lengths: Sequence[int], batch_frames: int, *, groups: Sequence[Group] | None = None
) -> list[list[int]]:
    """Batch utterances of similar length, longest first, at most `batch_frames` per batch with padding.

    An utterance longer than that gets its own batch. Utterances of different `groups` never share a batch.

    >>> plan_batches([10, 30, 11, 29], 60)
    [[1, 3], [2, 0]]
    >>> plan_batches([10, 30, 11, 29], 60, groups=[(0,), (1,), (0,), (0,)])
    [[1], [3, 2], [0]]
    """
    groups = groups or [()] * len(lengths)
    order = sorted(range(len(lengths)), key=lambda index: (groups[index], -lengths[index]))
    plan = _fill(order, lengths, batch_frames, groups)
    return sorted(plan, key=lambda batch: -lengths[batch[0]])


def shuffle_batches(
    lengths: Sequence[int],
    batch_frames: int,
    *,
    seed: int,
    epoch: int,
    groups: Sequence[Group] | None = None,
) -> list[list[int]]:
    """Plan the batches of a training epoch: similar lengths, shuffled differently in every epoch."""
    generator = random.Random(f"{seed} {epoch}")
    groups = groups or [()] * len(lengths)
    order = list(range(len(lengths)))
    generator.shuffle(order)
    longest = max(lengths)
    # lengths within a twentieth of the longest count as equal, so that batches vary
    order.sort(key=lambda index: (groups[index], -(20 * lengths[index] // longest)))
    plan = _fill(order, lengths, batch_frames, groups)
    generator.shuffle(plan)
    return plan


def _fill(
    order: Sequence[int], lengths: Sequence[int], most_frames: int, groups: Sequence[Group]
) -> list[list[int]]:
    """Fill batches with utterances in order, starting a new one if the last is full or of another group."""
    plan: list[list[int]] = []
    longest = 0
    for index in order:
        longest = max(longest, lengths[index])
        fits = plan and longest * (len(plan[-1]) + 1) <= most_frames
        if fits and groups[plan[-1][0]] == groups[index]:
            plan[-1].append(index)
        else:
            plan.append([index])
            longest = lengths[index]
    return plan
