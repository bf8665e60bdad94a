"""Validation during training: loss and error rates, over all utterances and per task."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Literal

import torch

from adaptkit.characters import has_no_spaces
from adaptkit.data.batches import load_batches
from adaptkit.data.dataset import Examples
from adaptkit.model.adapted import AdaptedModel
from adaptkit.model.recognise import plan_decoding, refuse_infinite
from adaptkit.progress import counting
from adaptkit.scoring.counts import ErrorCounts, count_chars, count_words

Metric = Literal["wer", "cer", "loss"]


@dataclass(frozen=True)
class TaskFigures:
    """What a validation measures of a task; counts are zero where nothing is decoded."""

    word_errors: int
    num_words: int
    char_errors: int
    num_chars: int
    loss: float  # the sum over utterances
    num_utterances: int

    def errors(self, metric: Metric) -> tuple[int, int]:
        """Return the number of errors, and of words or, for CER, characters."""
        cer = self.char_errors, self.num_chars
        return cer if metric == "cer" else (self.word_errors, self.num_words)


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
    figures: dict[str, TaskFigures]  # empty likewise

    @property
    def sums(self) -> dict[str, list[float]]:
        """Of each task: errors, words or characters, loss, utterances."""
        return {
            t: [*own.errors(self.metric), own.loss, own.num_utterances] for t, own in self.figures.items()
        }

    @property
    def value(self) -> float:
        """The metric over all utterances."""
        return {"loss": self.loss, "wer": self.wer, "cer": self.cer}[self.metric]


def choose_metric(setting: Literal["auto", "wer", "cer", "loss"], examples: Examples | None) -> Metric:
    """Return the metric of a validation set: of `auto`, CER for a language without spaces, else WER."""
    if setting != "auto":
        return setting
    texts = () if examples is None else examples.data.utterances.texts
    return "cer" if has_no_spaces(texts) else "wer"


def validate(
    adapted: AdaptedModel,
    examples: Examples,
    batch_frames: int,
    metric: Metric = "wer",
    *,
    known: Mapping[str, TaskFigures] | None = None,
) -> Validation:
    """Measure loss and error rates in batches of all tasks, since a row does not depend on the others.

    Tasks whose figures are `known`, because their weights have not changed, are not validated again.
    """
    known, left = known or {}, examples
    if known:
        left = examples.without({u.utt_id for u in examples.data.utterances if u.task in known})
    found = _measure(adapted, left, batch_frames, metric) if len(left) else {}
    figures = {task: known.get(task) or found[task] for task in examples.data.tasks}
    return _summarise(metric, figures, has_tasks=adapted.adapters is not None)


def _measure(
    adapted: AdaptedModel, examples: Examples, batch_frames: int, metric: Metric
) -> dict[str, TaskFigures]:
    """Measure every task; with the metric `loss` nothing is decoded, and the counts are zero."""
    plan, utterances = plan_decoding(adapted, examples, batch_frames), examples.data.utterances
    device = next(adapted.espnet.parameters()).device
    losses: dict[str, float] = {}
    texts: dict[str, str] = {}
    with torch.no_grad(), counting(f"validating on {examples.data.path}", len(examples)) as advance:
        for batch in load_batches(examples, plan):
            own, paths = adapted.measure_rows(batch.to(device), searches=metric != "loss")
            losses |= zip(batch.utt_ids, own, strict=True)
            if metric != "loss":
                found = dict(zip(batch.utt_ids, paths, strict=True))
                refuse_infinite(found)
                texts |= {u: examples.base.tokens.decode(best[0].tokens) for u, best in found.items()}
            advance(len(batch.utt_ids), "")
    counts = [[ErrorCounts()] * len(utterances)] * 2
    if metric != "loss":
        refs, hyps = [u.text for u in utterances], [texts[u.utt_id] for u in utterances]
        counts = [count_words(refs, hyps), count_chars(refs, hyps)]
    sums: dict[str, list[float]] = {}
    for utterance, words, chars in zip(utterances, *counts, strict=True):
        more = (words.errors, words.words, chars.errors, chars.words, losses[utterance.utt_id], 1)
        before = sums.get(utterance.task, [0, 0, 0, 0, 0.0, 0])
        sums[utterance.task] = [old + new for old, new in zip(before, more, strict=True)]
    return {task: TaskFigures(*own) for task, own in sums.items()}


def _summarise(metric: Metric, figures: dict[str, TaskFigures], *, has_tasks: bool) -> Validation:
    """Return a validation from what was measured of each task; a base model alone has no losses by task."""
    total = TaskFigures(*(sum(column) for column in zip(*map(astuple, figures.values()), strict=True)))
    of_tasks = figures if has_tasks else {}
    losses = {task: own.loss / own.num_utterances for task, own in of_tasks.items()}
    loss = total.loss / total.num_utterances
    if metric == "loss":
        return Validation(metric, loss, None, None, losses, losses, of_tasks)
    by_task = {task: _rate(*own.errors(metric)) for task, own in figures.items()}
    wer, cer = (_rate(*total.errors(rate)) for rate in ("wer", "cer"))
    return Validation(metric, loss, wer, cer, by_task, losses, of_tasks)


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
