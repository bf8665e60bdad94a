"""Divide a speaker's recordings into those to train and those to validate on, with no sentence in both."""

import hashlib
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from adaptkit.errors import counted
from adaptkit.serve.enrollment.recordings import Recorded
from adaptkit.serve.schemas import Refusal

LEAST_TRAIN, LEAST_VALID = 3, 2
_SHARE = 0.2  # of the recordings are validated on


@dataclass(frozen=True)
class Split:
    """The recordings of a job."""

    train: list[Recorded]
    valid: list[Recorded]


def split(
    recordings: Sequence[Recorded], *, held_out: Collection[str] = (), trained_on: Collection[str] = ()
) -> Split:
    """Hold out about a fifth of the recordings, whole sentences; refuse too few.

    Sentences that were held out before are again, and those that were trained on before are not, so that the
    Submodel of that time can be validated on them too.
    """
    sentences: dict[str, list[Recorded]] = defaultdict(list)
    for one in recordings:
        sentences[one.text.casefold()].append(one)
    known = {one.id: text for text, own in sentences.items() for one in own}
    before = {known[one] for one in held_out if one in known}
    used = {known[one] for one in trained_on if one in known} - before
    wanted = max(LEAST_VALID, round(_SHARE * len(recordings)))
    chosen, num_valid = [], 0
    for text in sorted(sentences, key=lambda text: (text not in before, text in used, _digest(text))):
        size = len(sentences[text])
        if num_valid < wanted and len(recordings) - num_valid - size >= max(LEAST_TRAIN, num_valid + size):
            chosen.append(text)
            num_valid += size
    if num_valid < LEAST_VALID:
        raise Refusal(
            422,
            f"too few to learn from: {counted(len(recordings), 'recording')} of "
            f"{counted(len(sentences), 'sentence')}; record at least {LEAST_TRAIN + LEAST_VALID} different "
            "sentences, better 20, of which some are kept to check the result",
        )
    valid = {one.id for text in chosen for one in sentences[text]}
    parts = ([one for one in recordings if (one.id in valid) == is_held] for is_held in (False, True))
    return Split(*parts)


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
