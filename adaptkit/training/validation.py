"""Validation during training: loss and error rates, over all utterances and per task."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from adaptkit.characters import has_no_spaces
from adaptkit.data.batches import load_batches
from adaptkit.data.dataset import Examples
from adaptkit.model.adapted import AdaptedModel
from adaptkit.model.recognise import plan_decoding, search
from adaptkit.progress import counting
from adaptkit.scoring.counts import ErrorCounts, count_chars, count_words

Metric = Literal["wer", "cer", "loss"]


@dataclass(frozen=True)
class Validation:
    """Loss and error rates (percent) on a validation set; with the metric `loss` nothing is decoded.

    Where the texts hold no word, a rate is 0 without errors, else infinite, and the loss decides.
    """

    metric: Metric  # which is best decides on the weights
    loss: float  # mean over utterances
    wer: float | None
    cer: float | None
    by_task: dict[str, float]  # the metric
    loss_by_task: dict[str, float]  # empty for a base model

    @property
    def value(self) -> float:
        """The metric over all utterances."""
        return {"loss": self.loss, "wer": self.wer, "cer": self.cer}[self.metric]


def choose_metric(setting: Literal["auto", "wer", "cer", "loss"], examples: Examples | None) -> Metric:
    """Return the metric of a validation set: of `auto`, CER for a language without spaces, else WER."""
    if setting != "auto":
        return setting
    texts = () if examples is None else (u.text for u in examples.data.utterances)
    return "cer" if has_no_spaces(texts) else "wer"


def validate(
    adapted: AdaptedModel, examples: Examples, batch_frames: int, metric: Metric = "wer"
) -> Validation:
    """Measure loss and error rates; with adapters every batch holds a single task."""
    device = next(adapted.espnet.parameters()).device
    losses: dict[int, float] = {}  # sums over utterances, by task id
    by_tasks = adapted.adapters is not None
    plan, texts = plan_decoding(adapted, examples, batch_frames, by_task=by_tasks), {}
    with torch.no_grad(), counting(f"validating on {examples.data.path}", len(examples)) as advance:
        for batch in load_batches(examples, plan):
            batch = adapted.read_taps(batch.to(device))
            task = batch.task_ids[0]
            losses[task] = losses.get(task, 0.0) + float(adapted.loss(batch)) * len(batch.utt_ids)
            for utt_id, path in search(adapted, batch).items() if metric != "loss" else ():
                texts[utt_id] = examples.base.tokens.decode(path.tokens)
            advance(len(batch.utt_ids), "")
    utterances = examples.data.utterances
    num_of = Counter(utterance.task for utterance in utterances)
    loss = sum(losses.values()) / len(utterances)
    loss_by_task = {
        task: losses[examples.task_ids[task]] / num_of[task] for task in examples.data.tasks if by_tasks
    }
    if metric == "loss":
        return Validation(metric, loss, None, None, loss_by_task, loss_by_task)
    refs, hyps = [u.text for u in utterances], [texts[u.utt_id] for u in utterances]
    counts = {"wer": count_words(refs, hyps), "cer": count_chars(refs, hyps)}
    by_task = {
        task: _rate([c for c, u in zip(counts[metric], utterances, strict=True) if u.task == task])
        for task in examples.data.tasks
    }
    return Validation(metric, loss, _rate(counts["wer"]), _rate(counts["cer"]), by_task, loss_by_task)


def describe_value(metric: Metric, value: float) -> str:
    """Describe a value of a metric in a message.

    >>> describe_value("wer", 12.5), describe_value("cer", math.inf), describe_value("loss", 1.25)
    ('WER 12.50', 'CER undefined (no words)', 'loss 1.250')
    """
    if metric == "loss":
        return f"loss {value:.3f}"
    return f"{metric.upper()} " + (f"{value:.2f}" if math.isfinite(value) else "undefined (no words)")


def _rate(counts: Sequence[ErrorCounts]) -> float:
    total = sum(counts, ErrorCounts())
    if not total.words:
        return math.inf if total.errors else 0.0
    return round(total.rate, 2)
