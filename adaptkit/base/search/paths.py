"""The result of a search."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class BestPath:
    """A hypothesis of an utterance: its tokens, without blanks and sentence marks, and its score.

    The score is a log probability: with greedy CTC the sum over frames, with beam search the weighted sum of
    `scores`, with a transducer the sum over the alignments that the search followed.
    """

    tokens: list[int]
    score: float
    scores: Mapping[str, float] = field(default_factory=dict)  # of each scorer, before its weight
    spans: tuple[tuple[int, int], ...] | None = None  # encoder frames of each token, if asked for
