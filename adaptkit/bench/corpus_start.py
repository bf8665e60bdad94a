"""What the start of training costs on a large corpus: reading the set, and planning its first epoch."""

from dataclasses import replace
from pathlib import Path

from adaptkit.base import create
from adaptkit.bench.corpus import WORDS, CorpusCost, timed
from adaptkit.data.batches import shuffle_batches
from adaptkit.data.dataset import Examples
from adaptkit.tokens import char_tokens
from adaptkit.training.run import read_set

BATCH_FRAMES = 12_000


def measure_start(data: Path, model_yaml: Path) -> list[CorpusCost]:
    """Return the cost of reading a set with its lengths, and of planning the batches of an epoch.

    The batches mix all speakers, as for a shared adapter; `adaptkit bench scale` plans those of
    many speakers.
    """
    base = replace(create.untrained(model_yaml, 10), tokens=char_tokens([" ".join(WORDS)]))
    sets: list[Examples] = []

    def plan() -> None:
        (train,) = sets
        groups = train.groups(None)
        shuffle_batches(train.lengths, BATCH_FRAMES, seed=0, epoch=0, groups=groups)

    return [
        timed("start: read, lengths", lambda: sets.append(read_set(data, base))),
        timed("start: plan an epoch", plan),
    ]
