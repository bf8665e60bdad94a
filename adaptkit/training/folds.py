"""Deal each speaker's utterances into folds; each trial holds out one of them for validation."""

import logging
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from adaptkit.data.dataset import Examples
from adaptkit.errors import ConfigError, listed
from adaptkit.experiment import Experiment

_LOG = logging.getLogger(__name__)
# the ids of `data perturb` and `augment copy`
_COPY = re.compile(r"^(?:sp(?:[01]\.\d+|2)-)?(?P<original>.+?)(?:-noisy\d+)?$")


@dataclass(frozen=True)
class Fold:
    """The utterances that a trial does not train on; copies of others among them are not validated on."""

    held_out: frozenset[str]
    validated: frozenset[str]

    def split(self, examples: Examples) -> tuple[Examples, Examples]:
        """Return the examples to train on, and those to validate on, which are not augmented."""
        others = {u.utt_id for u in examples.data.utterances} - self.validated
        return examples.without(self.held_out), replace(examples.without(others), augmentation=None)


def deal(examples: Examples, num_folds: int, *, seed: int) -> list[Fold]:
    """Deal each task's utterances into at most `num_folds` folds, by the seed, its name and their ids alone.

    A task with fewer utterances has as many folds as utterances, and one with a single utterance none: it is
    never held out. Perturbed or noisy copies go with the utterance they were made from, or together if it is
    not there.
    """
    folds: list[tuple[set[str], set[str]]] = [(set(), set()) for _ in range(num_folds)]
    tasks: dict[str, list[str]] = {}
    for utterance in examples.data.utterances:
        tasks.setdefault(utterance.task, []).append(utterance.utt_id)
    single = []
    for task, utt_ids in tasks.items():
        families = _gather(utt_ids)
        if len(families) < 2:
            single.append(task)
            continue
        order = sorted(families)
        random.Random(f"{seed} folds {task}").shuffle(order)
        for place, original in enumerate(order):
            held_out, validated = folds[place % num_folds]
            family = families[original]
            held_out.update(family)
            validated.update({original} if original in family else family)
    if single:
        what = "have a single utterance, which is never held out"
        counts = f"{len(single)} of {len(tasks)} speakers"
        _LOG.warning("%s: %s %s: %s", examples.data.path, counts, what, listed(single))
    return [Fold(frozenset(held_out), frozenset(own)) for held_out, own in folds if own]


def _gather(utt_ids: Sequence[str]) -> dict[str, set[str]]:
    """Group a task's utterances with their copies, by the id of the utterance that these were made from."""
    families: dict[str, set[str]] = {}
    for utt_id in utt_ids:
        families.setdefault(_COPY.match(utt_id)["original"], set()).add(utt_id)
    return families


def refuse_two_validations(settings: Experiment) -> None:
    """Refuse a validation set beside folds, and neither of them."""
    valid, folds = settings.data.valid, settings.train.folds
    if valid is None and folds is None:
        raise ConfigError(
            f"experiment '{settings.name}': data.valid is missing; name a validation set, or hold out "
            "training utterances with train.folds"
        )
    if valid is not None and folds is not None:
        raise ConfigError(
            f"experiment '{settings.name}': train.folds={folds} holds out training utterances in place of "
            f"data.valid ({valid}): set data.valid=null to train on all of data.train, or train.folds=null"
        )
