"""Decode in batches, loading the speakers' Submodels on demand."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

from adaptkit.adapters.per_task import SHARED
from adaptkit.base.search.searcher import Searcher
from adaptkit.data.batches import Batch, load_batches
from adaptkit.data.dataset import BASE_TASK, Examples
from adaptkit.errors import ConfigError
from adaptkit.model.adapted import AdaptedModel
from adaptkit.model.recognise import Hypothesis, plan_decoding, recognise_batches
from adaptkit.submodels.cache import SubmodelCache


def recognise_with_submodels(
    adapted: AdaptedModel,
    examples: Examples,
    batch_frames: int,
    submodels: SubmodelCache,
    *,
    searcher: Searcher | None = None,
    num_workers: int = 0,
) -> list[Hypothesis]:
    """Recognise every utterance with the Submodel of its task, sorted by id; the model must be in `hooked()`.

    The model's adapters are `submodels.stack`; Submodels are loaded when a batch needs them. Batches and
    results are those with an adapter file of all tasks.
    """
    plan = plan_decoding(adapted, examples, batch_frames)
    known = frozenset(submodels.known())
    tasks = [[_find_task(examples, row, known) for row in rows] for rows in plan]
    _refuse_crowded(tasks, submodels)
    batches = _in_slots(load_batches(examples, plan, num_workers), tasks, submodels)
    return recognise_batches(adapted, examples, batches, searcher)


def _find_task(examples: Examples, index: int, known: Collection[str]) -> str | None:
    """Return the task whose Submodel recognises an utterance; None for the base model alone."""
    task = examples.data.utterances.tasks[index]
    if examples.task_ids[task] == BASE_TASK:
        return None
    return task if task in known else SHARED


def _refuse_crowded(tasks: Sequence[Sequence[str | None]], submodels: SubmodelCache) -> None:
    """Refuse batches with more Submodels than fit in memory; splitting them would change results."""
    num_needed = max((len(set(own) - {None}) for own in tasks), default=0)
    remedy = f"raise --submodel-mb to {submodels.megabytes(num_needed)}"
    if num_needed > submodels.num_slots:
        raise ConfigError(
            f"a batch has {num_needed} speakers with Submodels of {submodels.bytes_each:,} bytes, but only "
            f"{submodels.num_slots} fit in memory; {remedy}"
        )


def _in_slots(
    batches: Iterator[Batch], tasks: Sequence[Sequence[str | None]], submodels: SubmodelCache
) -> Iterator[Batch]:
    """Yield batches with slots for task ids; their Submodels stay loaded until the next batch is drawn."""
    for batch, own, following in zip(batches, tasks, [*tasks, []][1:], strict=True):
        with submodels.using(own) as slots:
            submodels.prefetch(task for task in following if task is not None)
            yield replace(batch, task_ids=tuple(slots))
