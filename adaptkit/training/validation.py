"""Validation during training: loss and error rates, over all utterances and per task."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from adaptkit.characters import has_no_spaces
from adaptkit.data.batches import load_batches
from adaptkit.data.dataset import Examples
from adaptkit.model.adapted import AdaptedModel
from adaptkit.model.recognise import plan_decoding, search
from adaptkit.progress import counting
from adaptkit.scoring.counts import ErrorCounts, add_up, count_chars, count_words

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
    sums: dict[str, list[float]]  # by task: errors, words or characters, loss, utterances; empty likewise

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
    loss_of = {task: losses[examples.task_ids[task]] for task in examples.data.tasks if by_tasks}
    loss_by_task = {task: loss / num_of[task] for task, loss in loss_of.items()}
    if metric == "loss":
        sums = {task: [0, 0, loss, num_of[task]] for task, loss in loss_of.items()}
        return Validation(metric, loss, None, None, loss_by_task, loss_by_task, sums)
    refs, hyps = [u.text for u in utterances], [texts[u.utt_id] for u in utterances]
    counts = {"wer": count_words(refs, hyps), "cer": count_chars(refs, hyps)}
    of_task: dict[str, ErrorCounts] = dict.fromkeys(examples.data.tasks, ErrorCounts())
    for count, utterance in zip(counts[metric], utterances, strict=True):
        of_task[utterance.task] += count
    by_task = {task: _rate(count.errors, count.words) for task, count in of_task.items()}
    wer, cer = (_rate(total.errors, total.words) for total in map(add_up, counts.values()))
    sums = {t: [of_task[t].errors, of_task[t].words, loss, num_of[t]] for t, loss in loss_of.items()}
    return Validation(metric, loss, wer, cer, by_task, loss_by_task, sums)


def pool(metric: Metric, sums: Iterable[Sequence[float]]) -> list[float]:
    """Return metric and loss over several validations or tasks, each given by its sums.

    >>> pool("wer", [[1, 4, 2.0, 1], [1, 6, 4.0, 1]]), pool("loss", [[0, 0, 2.0, 1], [0, 0, 4.0, 1]])
    ([20.0, 3.0], [3.0, 3.0])
    """
    errors, units, loss, num = (sum(column) for column in zip(*sums, strict=True))
    mean = loss / num
    return [mean if metric == "loss" else _rate(errors, units), mean]


def describe_value(metric: Metric, value: float) -> str:
    """Describe a value of a metric in a message.

    >>> describe_value("wer", 12.5), describe_value("cer", math.inf), describe_value("loss", 1.25)
    ('WER 12.50', 'CER undefined (no words)', 'loss 1.250')
    """
    if metric == "loss":
        return f"loss {value:.3f}"
    return f"{metric.upper()} " + (f"{value:.2f}" if math.isfinite(value) else "undefined (no words)")


def _rate(errors: float, units: float) -> float:
    """Return the rate in percent, of words or characters."""
    if not units:
        return math.inf if errors else 0.0
    return round(100 * errors / units, 2)
