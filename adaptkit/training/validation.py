"""Validation during training: loss and word error rate, over all utterances and per task."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from adaptkit.data.batches import load_batches
from adaptkit.data.dataset import Examples
from adaptkit.model.adapted import AdaptedModel
from adaptkit.model.recognise import plan_decoding, search
from adaptkit.progress import counting
from adaptkit.scoring.counts import ErrorCounts, count_words


@dataclass(frozen=True)
class Validation:
    """Loss and word error rates (percent) on a validation set.

    Where the texts hold no word, the WER is 0 without errors, else infinite, and the loss decides.
    """

    loss: float  # mean over utterances
    wer: float
    by_task: dict[str, float]  # WER
    loss_by_task: dict[str, float]  # empty for a base model


def validate(adapted: AdaptedModel, examples: Examples, batch_frames: int) -> Validation:
    """Measure loss and word error rate; with adapters every batch holds a single task."""
    device = next(adapted.espnet.parameters()).device
    losses: dict[int, float] = {}  # sums over utterances, by task id
    by_tasks = adapted.adapters is not None
    plan, texts = plan_decoding(adapted, examples, batch_frames, by_task=by_tasks), {}
    with torch.no_grad(), counting(f"validating on {examples.data.path}", len(examples)) as advance:
        for batch in load_batches(examples, plan):
            batch = adapted.read_taps(batch.to(device))
            task = batch.task_ids[0]
            losses[task] = losses.get(task, 0.0) + float(adapted.loss(batch)) * len(batch.utt_ids)
            for utt_id, path in search(adapted, batch).items():
                texts[utt_id] = examples.base.tokens.decode(path.tokens)
            advance(len(batch.utt_ids), "")
    utterances = examples.data.utterances
    counts = count_words([u.text for u in utterances], [texts[u.utt_id] for u in utterances])
    by_task, loss_by_task = {}, {}
    for task in examples.data.tasks:
        own = [count for count, utterance in zip(counts, utterances, strict=True) if utterance.task == task]
        by_task[task] = _rate(own)
        if by_tasks:
            loss_by_task[task] = losses[examples.task_ids[task]] / len(own)
    return Validation(sum(losses.values()) / len(utterances), _rate(counts), by_task, loss_by_task)


def describe_rate(wer: float) -> str:
    """Describe a word error rate in a message.

    >>> describe_rate(12.5), describe_rate(math.inf)
    ('12.50', 'undefined (no words)')
    """
    return f"{wer:.2f}" if math.isfinite(wer) else "undefined (no words)"


def _rate(counts: Sequence[ErrorCounts]) -> float:
    total = sum(counts, ErrorCounts())
    if not total.words:
        return math.inf if total.errors else 0.0
    return round(total.rate, 2)
