"""Batches: which utterances go together, and their features or speech, tokens and tasks as tensors."""

import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

from adaptkit.adapters.api import AdapterStack
from adaptkit.base import padding
from adaptkit.base.checkpoint import BaseModel
from adaptkit.errors import AdaptkitError, CheckpointError, DataError, listed, nearest
from adaptkit.features import load_feats, read_options
from adaptkit.kaldi import datadir
from adaptkit.kaldi.audio import read_audio
from adaptkit.kaldi.datadir import DataDir, Utterance
from adaptkit.kaldi.tables import read_table

BASE_TASK = -1  # the task id of a row that the base model takes alone
Group = tuple[int, ...]


@dataclass(frozen=True)
class Batch:
    """Utterances of any tasks together; what pads a row lies beyond its length."""

    utt_ids: tuple[str, ...]
    task_ids: tuple[int, ...]  # B of them; -1 is the base itself
    inputs: Tensor  # features (B, T, F), speech (B, N), or what the encoder gave: see `taps`
    lengths: Tensor  # (B,) frames or samples
    tokens: Tensor  # (B, L), padded with -1 as ESPnet expects
    token_lengths: Tensor  # (B,)
    has_taps: bool = False  # inputs are blocks' outputs and the encoder's, side by side (B, U, (K' + 1) D)

    def to(self, device: torch.device | str) -> "Batch":
        """Move the tensors."""
        names = ("inputs", "lengths", "tokens", "token_lengths")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})

    def rows(self, chosen: Sequence[int]) -> "Batch":
        """Take some rows, trimmed to the longest among them."""
        lengths, token_lengths = self.lengths[chosen], self.token_lengths[chosen]
        return replace(
            self,
            utt_ids=tuple(self.utt_ids[row] for row in chosen),
            task_ids=tuple(self.task_ids[row] for row in chosen),
            inputs=self.inputs[chosen, : int(lengths.max())],
            lengths=lengths,
            tokens=self.tokens[chosen, : int(token_lengths.max())],
            token_lengths=token_lengths,
        )


@dataclass(frozen=True)
class Examples(Dataset):
    """The utterances of a data directory as a base model reads them, each with its task id."""

    data: DataDir
    base: BaseModel
    lengths: tuple[int, ...]  # feature frames of each utterance
    task_ids: Mapping[str, int]  # task name: id
    allow_pipes: bool = False
    taps: Mapping[str, str] | None = None  # where what the encoder gave lies, instead of its input

    def __len__(self) -> int:
        return len(self.data.utterances)

    def __getitem__(self, index: int) -> tuple[Utterance, int, Tensor, Tensor]:
        utterance = self.data.utterances[index]
        tokens = torch.tensor(self.base.tokens.encode(utterance.text), dtype=torch.long)
        return utterance, self.task_ids[utterance.task], self._load(utterance), tokens

    def groups(self, adapters: AdapterStack | None) -> list[Group]:
        """Tell apart the utterances that may not share a batch, by unequal values.

        Tasks that change weights of the base differently may not, since each then costs a pass of its own,
        nor may other lengths where the model's positions depend on the padded length.
        """
        mixes = padding.mixes_lengths(self.base.model)
        tasks = {name: adapters.group(task) if adapters else () for name, task in self.task_ids.items()}
        names = (utterance.task for utterance in self.data.utterances)
        return [
            (*tasks[name], 0 if mixes else length) for name, length in zip(names, self.lengths, strict=True)
        ]

    def without(self, utt_ids: Collection[str]) -> "Examples":
        """Leave some utterances out."""
        kept = [index for index, u in enumerate(self.data.utterances) if u.utt_id not in utt_ids]
        data = replace(self.data, utterances=tuple(self.data.utterances[index] for index in kept))
        return replace(self, data=data, lengths=tuple(self.lengths[index] for index in kept))

    def _load(self, utterance: Utterance) -> Tensor:
        if self.taps is not None:
            return load_feats(self.taps[utterance.utt_id])
        if self.base.features is not None:
            return load_feats(self.data.feats[utterance.utt_id])
        return read_audio(
            self.data.recordings[utterance.recording],
            rate_hz=self.base.rate_hz,
            start_sec=utterance.start_sec,
            end_sec=utterance.end_sec,
            allow_pipes=self.allow_pipes,
        )


def read_examples(path: Path, base: BaseModel, *, allow_pipes: bool = False) -> Examples:
    """Read a data directory for a base model, every task left to the base itself so far."""
    data = datadir.read(path)
    refuse_misfit(data, base)
    task_ids = dict.fromkeys(data.tasks, BASE_TASK)
    return Examples(data, base, tuple(count_frames(data, base)), task_ids, allow_pipes)


def collate(items: Sequence[tuple[Utterance, int, Tensor, Tensor]]) -> Batch:
    """Pad examples into a batch."""
    utterances, task_ids, inputs, tokens = zip(*items, strict=True)
    return Batch(
        utt_ids=tuple(utterance.utt_id for utterance in utterances),
        task_ids=task_ids,
        inputs=pad_sequence(inputs, batch_first=True),
        lengths=torch.tensor([len(x) for x in inputs]),
        tokens=pad_sequence(tokens, batch_first=True, padding_value=-1),
        token_lengths=torch.tensor([len(x) for x in tokens]),
    )


def load_batches(examples: Examples, plan: Sequence[Sequence[int]], num_workers: int = 0) -> Iterator[Batch]:
    """Load the planned batches in order, in this process or ahead of time in `num_workers` others."""
    generator = torch.Generator().manual_seed(0)  # else the loader would draw from the global state
    loader = DataLoader(
        _Planned(examples, plan), batch_size=None, num_workers=num_workers, generator=generator
    )
    for loaded in loader:
        if isinstance(loaded, AdaptkitError):
            raise loaded
        yield loaded


@dataclass(frozen=True)
class _Planned(Dataset):
    """The batches of a plan; one that cannot be loaded is its error.

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
    """Group utterances of similar length, longest first, at most `batch_frames` frames a batch with padding.

    An utterance longer than that is a batch of its own. Utterances of unequal `groups` never share a batch.

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
    """Plan an epoch of training: other neighbours of similar length and another order in each."""
    generator = random.Random(f"{seed} {epoch}")
    groups = groups or [()] * len(lengths)
    order = list(range(len(lengths)))
    generator.shuffle(order)
    longest = max(lengths)
    # lengths within a twentieth of the longest count as equal, so that neighbours change
    order.sort(key=lambda index: (groups[index], -(20 * lengths[index] // longest)))
    plan = _fill(order, lengths, batch_frames, groups)
    generator.shuffle(plan)
    return plan


def _fill(
    order: Sequence[int], lengths: Sequence[int], most_frames: int, groups: Sequence[Group]
) -> list[list[int]]:
    """Put utterances into batches in their order, a new one where the last is full or of another group."""
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


def count_frames(data: DataDir, base: BaseModel) -> list[int]:
    """Count each utterance's feature frames: from `utt2num_frames`, the features, or `utt2dur`."""
    table = data.path / "utt2num_frames"
    if base.features is not None and table.exists():
        counts = read_table(table)
        wrong = [u.utt_id for u in data.utterances if not counts.get(u.utt_id, "").isdecimal()]
        if wrong:
            raise DataError(f"{table}: no number for {listed(wrong)}; delete the file, it is optional")
        return [int(counts[utterance.utt_id]) for utterance in data.utterances]
    if base.features is not None:
        return [len(load_feats(data.feats[utterance.utt_id])) for utterance in data.utterances]
    seconds = data.duration_sec or {}
    missing = [utterance.utt_id for utterance in data.utterances if utterance.utt_id not in seconds]
    if missing:
        raise DataError(
            f"{data.path}/utt2dur: misses {listed(missing)}; 'adaptkit data fix {data.path}' writes it"
        )
    return [round(1000 * seconds[u.utt_id] / base.frame_shift_ms) for u in data.utterances]


def number_tasks(data: DataDir, tasks: Sequence[str], *, unknown: str = "error") -> dict[str, int]:
    """Give the id of every task of a data directory; one that the adapters do not know is refused.

    With unknown="base" such a task is left to the base model instead.
    """
    known = {task: index for index, task in enumerate(tasks)}
    strange = [task for task in data.tasks if task not in known]
    if strange and unknown != "base":
        described = "; ".join(f"'{task}'{nearest(task, tasks)}" for task in strange[:10])
        raise CheckpointError(
            f"{data.path}: the adapters know {len(tasks)} tasks ({listed(tasks, 8)}) and not {described}; "
            "'adaptkit decode --unknown-task base' leaves them to the base model"
        )
    return {task: known.get(task, BASE_TASK) for task in data.tasks}


def refuse_misfit(data: DataDir, base: BaseModel) -> None:
    """Refuse a data directory without features, or with others than the base model reads."""
    if base.features is None:
        return
    remedy = f"'adaptkit feats {data.path} dump/{data.path.name}' makes them"
    if data.feats is None:
        raise DataError(f"{data.path}: has no feats.scp, which the base model {base.path} reads; {remedy}")
    missing = [u.utt_id for u in data.utterances if u.utt_id not in data.feats]
    if missing:
        raise DataError(f"{data.path}/feats.scp: misses {listed(missing)}; {remedy}")
    made = data.path / "feats.json"  # absent where Kaldi itself made the features
    options = read_options(made).to_dict() if made.exists() else {}
    wrong = [name for name, value in options.items() if base.features[name] != value]
    if wrong:
        described = ", ".join(f"{name} {options[name]} (the model: {base.features[name]})" for name in wrong)
        raise DataError(f"{made}: other features than {base.path} was trained on: {described}; {remedy}")
    num_bins = load_feats(data.feats[data.utterances[0].utt_id]).shape[1]
    if num_bins != base.features["num_bins"]:
        raise DataError(
            f"{data.path}/feats.scp: {num_bins} bins, {base.path} reads {base.features['num_bins']}"
        )


def too_short(examples: Examples) -> dict[str, str]:
    """Name the utterances that CTC cannot learn or the encoder cannot take, each with the reason."""
    reasons = {}
    base = examples.base
    for utterance, length in zip(examples.data.utterances, examples.lengths, strict=True):
        frames = padding.encoder_frames(base.model.encoder, length)
        tokens = base.tokens.encode(utterance.text)
        repeats = sum(left == right for left, right in zip(tokens, tokens[1:], strict=False))
        if frames < max(1, len(tokens) + repeats):
            reasons[utterance.utt_id] = f"{frames} encoder frames, {len(tokens)} tokens, {repeats} repeats"
    return reasons
