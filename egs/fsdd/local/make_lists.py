"""Draw the digit strings of lists/{train,valid,test}.txt, the input of prepare.py.

A line is `utterance pause recording pause ... recording pause`: pauses in seconds, and recordings as
`digit_index` of the speaker that begins the utterance id. Test strings use the official test recordings
(index 0 to 4), validation strings index 5 to 9 and training strings 10 to 49, so sets share no recording.
Each recording is used PASSES times, in different strings: the 50 test recordings of a speaker give about 50
strings, whose errors are therefore dependent. A confidence interval should resample speakers, not utterances.
"""

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer

from adaptkit.files import write_text

SPEAKERS = ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")
INDICES = {"train": range(10, 50), "valid": range(5, 10), "test": range(5)}
PASSES = {"train": 2, "valid": 2, "test": 5}
FEWEST, MOST = 3, 7  # digits in a string
PAUSE_SEC = (0.05, 0.30)


def main(
    lists: Annotated[Path, typer.Argument(help="folder to write train.txt, valid.txt and test.txt to")],
) -> None:
    """Draw the digit strings, the same in every run.

    Example: python local/make_lists.py lists
    """
    for name in INDICES:
        lines = [line for speaker in SPEAKERS for line in draw(speaker, name)]
        write_text(lists / f"{name}.txt", "".join(f"{line}\n" for line in lines))


def draw(speaker: str, name: str) -> Iterator[str]:
    """Draw the strings of a speaker in the set `name`, as lines of its list."""
    rng = random.Random(f"fsdd {speaker} {name}")
    recordings = [f"{digit}_{index}" for digit in range(10) for index in INDICES[name]]
    strings = [string for _ in range(PASSES[name]) for string in split(rng, recordings)]
    for number, string in enumerate(strings, start=1):
        pauses = [f"{rng.uniform(*PAUSE_SEC):.2f}" for _ in range(len(string) + 1)]
        spoken = [field for pair in zip(pauses, string, strict=False) for field in pair]
        yield " ".join([f"{speaker}-{name}-{number:03d}", *spoken, pauses[-1]])


def split(rng: random.Random, recordings: Sequence[str]) -> Iterator[list[str]]:
    """Split shuffled recordings into strings of FEWEST to MOST digits, using each recording once."""
    left = rng.sample(recordings, len(recordings))
    while left:
        lengths = [n for n in range(FEWEST, MOST + 1) if len(left) - n == 0 or len(left) - n >= FEWEST]
        length = rng.choice(lengths)
        yield left[:length]
        left = left[length:]


if __name__ == "__main__":
    typer.run(main)
