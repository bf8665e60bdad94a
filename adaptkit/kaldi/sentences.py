"""Assign each sentence (equal texts) of a split to one part, with parts as close to their sizes as possible.

If several speakers read the same sentences, parts of exact sizes may not exist, and finding the largest is a
hard problem (similar to 3-dimensional matching). Here, sentences are placed one by one, the frequent ones
first, where most utterances are missing, and then moved while that helps.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from random import Random

from adaptkit.kaldi.datadir import Utterance

Cell = tuple[str, str]  # speaker, and group if the shares of groups are kept
Quotas = Mapping[Cell, Sequence[int]]  # how many utterances of a cell each part should have
_MOST_ROUNDS = 30  # of moves; one or two usually suffice


def assign_sentences(
    cells: Mapping[Cell, Iterable[Utterance]], quotas: Quotas, *, seed: int
) -> dict[str, int]:
    """Return the part of each sentence, by its text; the same for the same utterances, quotas and seed."""
    uses: dict[str, Counter[Cell]] = defaultdict(Counter)
    for cell, utterances in sorted(cells.items()):
        for u in sorted(utterances, key=lambda u: u.utt_id):
            uses[u.text][cell] += 1
    texts, rng = sorted(uses), Random(f"{seed} sentences")
    rng.shuffle(texts)
    texts.sort(key=lambda text: -uses[text].total())
    parts = _Parts(quotas)
    for text in texts:
        parts.place(text, uses[text], parts.rank(uses[text])[0])
    for _ in range(_MOST_ROUNDS):
        if not parts.num_missing:
            break
        rng.shuffle(texts)
        for text in texts:
            parts.move(text, uses[text], rng)
    return parts.part_of


class _Parts:
    """The sentences placed so far, and the utterances of each cell in each part."""

    def __init__(self, quotas: Quotas):
        self.quotas = quotas
        self.num_parts = len(next(iter(quotas.values())))
        self.part_of: dict[str, int] = {}
        self.filled: dict[Cell, list[int]] = {cell: [0] * self.num_parts for cell in quotas}

    @property
    def num_missing(self) -> int:
        """The number of utterances by which cells fall short of their quotas."""
        return sum(
            max(0, quota - filled)
            for cell, own in self.quotas.items()
            for quota, filled in zip(own, self.filled[cell], strict=True)
        )

    def rank(self, uses: Mapping[Cell, int]) -> list[int]:
        """Return the parts, best first: where most utterances are missing, then the largest share."""

        def worth(part: int) -> tuple[int, float]:
            needs = [self.quotas[cell][part] - self.filled[cell][part] for cell in uses]
            used = sum(min(max(0, need), count) for need, count in zip(needs, uses.values(), strict=True))
            return used, sum(need / max(1, self.quotas[c][part]) for need, c in zip(needs, uses, strict=True))

        return sorted(range(self.num_parts), key=worth, reverse=True)

    def place(self, text: str, uses: Mapping[Cell, int], part: int, sign: int = 1) -> None:
        """Put a sentence into a part, or with sign -1 remove it from there."""
        for cell, count in uses.items():
            self.filled[cell][part] += sign * count
        self.part_of[text] = part

    def move(self, text: str, uses: Mapping[Cell, int], rng: Random) -> None:
        """Move a sentence to where most utterances are missing, at random among equal parts."""
        old = self.part_of[text]
        self.place(text, uses, old, sign=-1)
        gains = [self._gain(uses, part) for part in range(self.num_parts)]
        best = [part for part, gain in enumerate(gains) if gain == max(gains)]
        self.place(text, uses, rng.choice(best))

    def _gain(self, uses: Mapping[Cell, int], part: int) -> int:
        """Return how many missing utterances a sentence supplies to a part."""
        needs = ((self.quotas[cell][part] - self.filled[cell][part], count) for cell, count in uses.items())
        return sum(min(max(0, need), count) for need, count in needs)
