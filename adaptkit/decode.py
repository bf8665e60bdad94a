"""Decoding: from a data directory to hypotheses, in batches of any tasks, each row with its own weights."""

import math
from dataclasses import dataclass

import torch

from adaptkit import score
from adaptkit.base.search import Path
from adaptkit.batches import Batch, load_batches, plan_batches
from adaptkit.errors import DataError, listed
from adaptkit.examples import Examples
from adaptkit.objective import Objective
from adaptkit.progress import counting


@dataclass(frozen=True)
class Hypothesis:
    """What was recognised; `score` is the log probability of the best path."""

    utt_id: str
    text: str
    score: float


@dataclass(frozen=True)
class Validation:
    """How well a model does on a validation set; rates in percent."""

    loss: float  # mean over utterances
    wer: float
    by_task: dict[str, float]


def decode(
    objective: Objective, examples: Examples, batch_frames: int, *, num_workers: int = 0
) -> list[Hypothesis]:
    """Recognise every utterance of `examples`, sorted by id; the objective must be hooked.

    The text does not depend on the batches: padding is kept out of the results, and where the model's
    positions depend on the padded length (legacy relative positions), only utterances of one length share a
    batch.
    """
    device = next(objective.model.parameters()).device
    plan = _plan(objective, examples, batch_frames)
    found = []
    with torch.inference_mode(), counting("decoding", len(examples)) as advance:
        for batch in load_batches(examples, plan, num_workers):
            paths = _search(objective, batch.to(device))
            for utt_id, path in paths.items():
                found.append(Hypothesis(utt_id, examples.base.tokens.decode(path.tokens), path.score))
            advance(len(batch.utt_ids), "")
    return sorted(found, key=lambda hypothesis: hypothesis.utt_id.encode())


def validate(objective: Objective, examples: Examples, batch_frames: int) -> Validation:
    """Measure loss and word error rate, over all and for each task."""
    device = next(objective.model.parameters()).device
    loss_sum, texts = 0.0, {}
    with torch.no_grad():
        for batch in load_batches(examples, _plan(objective, examples, batch_frames)):
            batch = objective.read_taps(batch.to(device))
            loss_sum += float(objective(batch)) * len(batch.utt_ids)
            for utt_id, path in _search(objective, batch).items():
                texts[utt_id] = examples.base.tokens.decode(path.tokens)
    utterances = examples.data.utterances
    counts = score.count_words([u.text for u in utterances], [texts[u.utt_id] for u in utterances])
    by_task = {}
    for task in examples.data.tasks:
        own = [count for count, utterance in zip(counts, utterances, strict=True) if utterance.task == task]
        by_task[task] = round(sum(own, score.ErrorCounts()).rate, 2)
    return Validation(loss_sum / len(utterances), round(sum(counts, score.ErrorCounts()).rate, 2), by_task)


def _search(objective: Objective, batch: Batch) -> dict[str, Path]:
    """Find the best path of each utterance; one that is no number is an error, not an empty text."""
    paths = dict(zip(batch.utt_ids, objective.search(batch), strict=True))
    lost = [utt_id for utt_id, path in paths.items() if not math.isfinite(path.score)]
    if lost:
        raise DataError(
            f"the scores of {listed(lost)} are not finite; look at their audio and features for nan and inf"
        )
    return paths


def _plan(objective: Objective, examples: Examples, batch_frames: int) -> list[list[int]]:
    return plan_batches(examples.lengths, batch_frames, groups=examples.groups(objective.adapters))
