"""What a search finds."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class BestPath:
    """A hypothesis of an utterance: its tokens, without blanks and sentence marks, and its score.

    The score is a log probability: of greedy CTC the sum over frames, of a beam search the weighted sum of
    `scores`, of a transducer the sum over its alignments that were followed.
    """

    tokens: list[int]
    score: float
    scores: Mapping[str, float] = field(default_factory=dict)  # of each scorer, before its weight
    spans: tuple[tuple[int, int], ...] | None = None  # encoder frames of each token, if asked for
