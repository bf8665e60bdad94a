"""Recognise the utterances of a data set in batches that may mix tasks."""

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

from adaptkit.base.search.paths import BestPath
from adaptkit.base.search.searcher import Searcher
from adaptkit.data.batches import Batch, BatchPlan, load_batches, plan_batches
from adaptkit.data.dataset import Examples
from adaptkit.errors import DataError, listed
from adaptkit.model.adapted import AdaptedModel
from adaptkit.progress import counting

_LOG = logging.getLogger(__name__)
Found = TypeVar("Found")  # of a row of a batch
_CPU_IS_FULL = "DefaultCPUAllocator"  # names itself in the RuntimeError for which torch has no class


@dataclass(frozen=True)
class Hypothesis:
    """The text recognised for an utterance, its score (see `BestPath`), and its n-best list."""

    utt_id: str
    text: str
    score: float
    nbest: tuple[BestPath, ...] = ()


def recognise(
    adapted: AdaptedModel,
    examples: Examples,
    batch_frames: int,
    *,
    searcher: Searcher | None = None,
    num_workers: int = 0,
) -> list[Hypothesis]:
    """Recognise every utterance of `examples`, sorted by id; the model must be in `hooked()`.

    Results do not depend on batching: padding does not affect them, and with contextual-block encoders, whose
    blocks depend on the padded length, a batch holds utterances of one length only.
    """
    plan = plan_decoding(adapted, examples, batch_frames)
    return recognise_batches(adapted, examples, load_batches(examples, plan, num_workers), searcher)


def recognise_batches(
    adapted: AdaptedModel, examples: Examples, batches: Iterable[Batch], searcher: Searcher | None = None
) -> list[Hypothesis]:
    """Recognise `examples` from already planned batches, as `recognise` does."""
    device = next(adapted.espnet.parameters()).device
    found = []
    with torch.inference_mode(), counting("decoding", len(examples)) as advance:
        for batch in batches:
            for utt_id, paths in search_nbest(adapted, batch.to(device), searcher).items():
                text = examples.base.tokens.decode(paths[0].tokens)
                found.append(Hypothesis(utt_id, text, paths[0].score, tuple(paths)))
            advance(len(batch.utt_ids), "")
    return sorted(found, key=lambda hypothesis: hypothesis.utt_id.encode())


def search(adapted: AdaptedModel, batch: Batch, searcher: Searcher | None = None) -> dict[str, BestPath]:
    """Return the best path of each utterance, by default of the model's fastest search."""
    return {utt_id: paths[0] for utt_id, paths in search_nbest(adapted, batch, searcher).items()}


def search_nbest(
    adapted: AdaptedModel, batch: Batch, searcher: Searcher | None = None
) -> dict[str, list[BestPath]]:
    """Return the n-best list of each utterance; a best score that is not finite is an error.

    If the memory of the device does not suffice, the batch is halved repeatedly.
    """
    paths = halving(batch, lambda part: adapted.recognise(part, searcher))
    found = dict(zip(batch.utt_ids, paths, strict=True))
    refuse_infinite(found)
    return found


def refuse_infinite(found: Mapping[str, Sequence[BestPath]]) -> None:
    """Refuse n-best lists of utterances if a best score is not finite."""
    lost = [utt_id for utt_id, paths in found.items() if not math.isfinite(paths[0].score)]
    if lost:
        raise DataError(
            f"the scores of {listed(lost)} are not finite; check their audio and features for nan and inf"
        )


def halving(batch: Batch, run: Callable[[Batch], Sequence[Found]]) -> list[Found]:
    """Return the results of `run` for each row, on halves of the batch if memory does not suffice."""
    try:
        return list(run(batch))
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        reason = str(error).splitlines()[0]
    # outside of the except clause, whose error holds the tensors of the pass
    num_rows = len(batch.utt_ids)
    if num_rows == 1:
        raise DataError(
            f"{batch.utt_ids[0]}: takes more memory than there is ({reason}); cut the recording, or use a "
            "device with more memory"
        )
    if batch.inputs.is_cuda:
        torch.cuda.empty_cache()
    _LOG.warning("out of memory with a batch of %d, which is divided: %s", num_rows, reason)
    halves = range(num_rows // 2), range(num_rows // 2, num_rows)
    return [found for half in halves for found in halving(batch.rows(list(half)), run)]


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an error says that the memory of the device does not suffice."""
    return isinstance(error, torch.cuda.OutOfMemoryError) or _CPU_IS_FULL in str(error)


def plan_decoding(adapted: AdaptedModel, examples: Examples, batch_frames: int) -> BatchPlan:
    """Group utterances of similar length, of any tasks, into batches, longest first.

    Since padding costs as much as speech, the shortest utterance of a batch is at least four fifths as long
    as the longest.
    """
    groups = [
        (*group, length_class(length))
        for group, length in zip(examples.groups(adapted.adapters), examples.lengths, strict=True)
    ]
    return plan_batches(examples.lengths, batch_frames, groups=groups)


def length_class(length: int) -> int:
    """Return a number that is the same for similar lengths.

    >>> [length_class(length) for length in (0, 100, 110, 150)]
    [0, -20, -21, -22]
    """
    return -int(math.log(max(1, length)) / math.log(1.25))
