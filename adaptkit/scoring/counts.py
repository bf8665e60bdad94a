"""Error counts of words and characters, from alignments by jiwer."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated

import jiwer
from pydantic import Field

Count = Annotated[int, Field(ge=0, le=10**12)]
Percent = Annotated[float, Field(ge=-1e12, le=1e12, allow_inf_nan=False)]


@dataclass(frozen=True)
class ErrorCounts:
    """Counts from aligning references and hypotheses, in words or in characters (spaces included).

    >>> (ErrorCounts(hits=7, subs=1) + ErrorCounts(hits=1, dels=1, ins=1)).rate
    30.0
    """

    hits: Count = 0
    subs: Count = 0
    dels: Count = 0
    ins: Count = 0

    @property
    def words(self) -> int:
        """The number of reference words (or characters)."""
        return self.hits + self.subs + self.dels

    @property
    def errors(self) -> int:
        """The number of edits that turn the reference into the hypothesis."""
        return self.subs + self.dels + self.ins

    @property
    def rate(self) -> float:
        """Errors per reference word (or character), in percent; above 100 with many insertions."""
        return 100 * self.errors / self.words

    def __add__(self, other: "ErrorCounts") -> "ErrorCounts":
        return ErrorCounts(
            self.hits + other.hits, self.subs + other.subs, self.dels + other.dels, self.ins + other.ins
        )


def add_up(counts: Iterable[ErrorCounts]) -> ErrorCounts:
    """Return the sum of counts."""
    return sum(counts, ErrorCounts())


def count_words(refs: Sequence[str], hyps: Sequence[str]) -> list[ErrorCounts]:
    """Count the word errors of each utterance; references and hypotheses are in the same order."""
    return [count_chunks(chunks) for chunks in jiwer.process_words(list(refs), list(hyps)).alignments]


def count_chars(refs: Sequence[str], hyps: Sequence[str]) -> list[ErrorCounts]:
    """Count the character errors of each utterance, the spaces between words included."""
    return [count_chunks(chunks) for chunks in jiwer.process_characters(list(refs), list(hyps)).alignments]


def count_chunks(chunks: Iterable[jiwer.AlignmentChunk]) -> ErrorCounts:
    """Count the edits of an alignment."""
    sizes = {"equal": 0, "substitute": 0, "delete": 0, "insert": 0}
    for chunk in chunks:
        in_ref, in_hyp = chunk.ref_end_idx - chunk.ref_start_idx, chunk.hyp_end_idx - chunk.hyp_start_idx
        sizes[chunk.type] += max(in_ref, in_hyp)
    return ErrorCounts(*sizes.values())
