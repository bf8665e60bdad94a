"""Batches of noise with random tokens, since the cost of a model does not depend on the content."""

from collections.abc import Sequence

import torch
from torch import Tensor

from adaptkit.base.checkpoint import BaseModel
from adaptkit.data.batches import Batch
from adaptkit.features.fbank import FbankOptions

_NUM_TOKENS = 4  # without a base model


def count_inputs(base: BaseModel, seconds: float) -> int:
    """Convert a duration to the input length of a base model, in feature frames or samples."""
    return round(seconds * base.rate_hz if base.features is None else 1000 * seconds / base.frame_shift_ms)


def draw_inputs(base: BaseModel | None, num_rows: int, length: int, generator: torch.Generator) -> Tensor:
    """Draw inputs for a base model, features (B, T, F) or speech (B, N); without one, default features."""
    if base and base.features is None:
        return 0.1 * torch.randn(num_rows, length, generator=generator)
    num_bins = int(base.features["num_bins"]) if base else FbankOptions.num_bins
    return torch.randn(num_rows, length, num_bins, generator=generator)


def draw_batch(
    base: BaseModel | None, lengths: Tensor, token_lengths: Tensor, task_ids: Sequence[int]
) -> Batch:
    """Draw a training batch with inputs and tokens of some lengths (B,), on the device of the lengths."""
    generator = torch.Generator().manual_seed(0)
    inputs = draw_inputs(base, len(lengths), int(lengths.max()), generator)
    num_tokens = len(base.tokens.tokens) if base else _NUM_TOKENS
    shape = (len(lengths), int(token_lengths.max()))
    tokens = torch.randint(2, num_tokens - 1, shape, generator=generator)  # no blank, <unk> or <sos/eos>
    return _numbered(inputs, lengths, tokens, token_lengths, task_ids).to(lengths.device)


def make_batch(base: BaseModel, rows: Sequence[Tensor], task_ids: Sequence[int]) -> Batch:
    """Make a decoding batch of rows of equal length, on the device of the base model."""
    lengths, ones = torch.full((len(rows),), len(rows[0])), torch.ones(len(rows), dtype=torch.long)
    batch = _numbered(torch.stack(list(rows)), lengths, torch.zeros_like(ones)[:, None], ones, task_ids)
    return batch.to(next(base.model.parameters()).device)


def _numbered(
    inputs: Tensor, lengths: Tensor, tokens: Tensor, token_lengths: Tensor, task_ids: Sequence[int]
) -> Batch:
    """Make a batch with row numbers as utterance ids."""
    utt_ids = tuple(str(row) for row in range(len(inputs)))
    return Batch(utt_ids, tuple(task_ids), inputs, lengths, tokens, token_lengths)
