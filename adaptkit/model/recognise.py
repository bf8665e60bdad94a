"""Decoding: from a data directory to hypotheses, in batches of any tasks, each row with its own weights."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from adaptkit.base.search.greedy import Path
from adaptkit.data.batches import Batch, load_batches, plan_batches
from adaptkit.data.dataset import BASE_TASK, Examples
from adaptkit.errors import ConfigError, DataError, listed
from adaptkit.model.adapted import Objective
from adaptkit.progress import counting
from adaptkit.scoring import wer as score
from adaptkit.submodels.cache import SubmodelCache


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
    by_task: dict[str, float]  # WER
    loss_by_task: dict[str, float]  # none for a base model


def decode(
    objective: Objective,
    examples: Examples,
    batch_frames: int,
    *,
    num_workers: int = 0,
    submodels: SubmodelCache | None = None,
) -> list[Hypothesis]:
    """Recognise every utterance of `examples`, sorted by id; the objective must be hooked.

    The text does not depend on the batches: padding is kept out of the results, and where the model's
    positions depend on the padded length (legacy relative positions), only utterances of one length share a
    batch.

    With `submodels` the objective's adapters are their stack, and each task of the set that has an id is
    loaded when a batch needs it, under its own name. Batches and results are those of a bank of all tasks.
    """
    device = next(objective.model.parameters()).device
    plan = plan_decoding(objective, examples, batch_frames)
    batches = load_batches(examples, plan, num_workers)
    if submodels is not None:
        tasks = [[_find_task(examples, row) for row in rows] for rows in plan]
        _refuse_crowded(tasks, submodels)
        batches = _in_slots(batches, tasks, submodels)
    found = []
    with torch.inference_mode(), counting("decoding", len(examples)) as advance:
        for batch in batches:
            paths = search(objective, batch.to(device))
            for utt_id, path in paths.items():
                found.append(Hypothesis(utt_id, examples.base.tokens.decode(path.tokens), path.score))
            advance(len(batch.utt_ids), "")
    return sorted(found, key=lambda hypothesis: hypothesis.utt_id.encode())


def validate(objective: Objective, examples: Examples, batch_frames: int) -> Validation:
    """Measure loss and word error rate, over all and for each task; adapters' batches hold one task each."""
    device = next(objective.model.parameters()).device
    losses: dict[int, float] = {}  # sums over utterances, by task id
    by_tasks = objective.adapters is not None
    plan, texts = plan_decoding(objective, examples, batch_frames, by_task=by_tasks), {}
    with torch.no_grad():
        for batch in load_batches(examples, plan):
            batch = objective.read_taps(batch.to(device))
            task = batch.task_ids[0]
            losses[task] = losses.get(task, 0.0) + float(objective(batch)) * len(batch.utt_ids)
            for utt_id, path in search(objective, batch).items():
                texts[utt_id] = examples.base.tokens.decode(path.tokens)
    utterances = examples.data.utterances
    counts = score.count_words([u.text for u in utterances], [texts[u.utt_id] for u in utterances])
    by_task, loss_by_task = {}, {}
    for task in examples.data.tasks:
        own = [count for count, utterance in zip(counts, utterances, strict=True) if utterance.task == task]
        by_task[task] = round(sum(own, score.ErrorCounts()).rate, 2)
        if by_tasks:
            loss_by_task[task] = losses[examples.task_ids[task]] / len(own)
    loss, wer = sum(losses.values()) / len(utterances), round(sum(counts, score.ErrorCounts()).rate, 2)
    return Validation(loss, wer, by_task, loss_by_task)


def _find_task(examples: Examples, index: int) -> str | None:
    """Name the task of an utterance; None where the base takes it alone."""
    task = examples.data.utterances[index].task
    return task if examples.task_ids[task] != BASE_TASK else None


def _refuse_crowded(tasks: Sequence[Sequence[str | None]], submodels: SubmodelCache) -> None:
    """Refuse batches of more Submodels than have room at once; to divide them would change bits."""
    num_needed = max((len(set(own) - {None}) for own in tasks), default=0)
    remedy = f"--submodel-mb {submodels.megabytes(num_needed)} would do"
    if num_needed > submodels.num_slots:
        raise ConfigError(
            f"a batch holds {num_needed} speakers with Submodels of {submodels.bytes_each:,} bytes, and "
            f"{submodels.num_slots} may be in memory; {remedy}"
        )


def _in_slots(
    batches: Iterator[Batch], tasks: Sequence[Sequence[str | None]], submodels: SubmodelCache
) -> Iterator[Batch]:
    """Give batches with slots for task ids; their Submodels stay there until the next batch is asked for."""
    for batch, own, following in zip(batches, tasks, [*tasks, []][1:], strict=True):
        with submodels.using(own) as slots:
            submodels.prefetch(task for task in following if task is not None)
            yield replace(batch, task_ids=tuple(slots))


def search(objective: Objective, batch: Batch) -> dict[str, Path]:
    """Find the best path of each utterance; one that is no number is an error, not an empty text."""
    paths = dict(zip(batch.utt_ids, objective.search(batch), strict=True))
    lost = [utt_id for utt_id, path in paths.items() if not math.isfinite(path.score)]
    if lost:
        raise DataError(
            f"the scores of {listed(lost)} are not finite; look at their audio and features for nan and inf"
        )
    return paths


def plan_decoding(
    objective: Objective, examples: Examples, batch_frames: int, *, by_task: bool = False
) -> list[list[int]]:
    """Group the utterances of a set, longest first; with `by_task` a batch holds one task alone."""
    groups = examples.groups(objective.adapters)
    if by_task:
        ids = (examples.task_ids[utterance.task] for utterance in examples.data.utterances)
        groups = [(*group, task) for group, task in zip(groups, ids, strict=True)]
    return plan_batches(examples.lengths, batch_frames, groups=groups)
