"""Synthesise the mini corpus: commands and digit strings, in 14 ordinary voices and 6 unusual ones.

The ordinary voices are in base_train, base_valid and base_test; the unusual ones are in adapt_train,
adapt_valid and adapt_test, where the speaker is the task. `adaptkit.corpora.espeak` describes the voices.
"""

from pathlib import Path
from typing import Annotated

import typer

from adaptkit.cli.script import run_script
from adaptkit.corpora.espeak import BASE_SETS, Voice, synthesise_corpus, write_script

UNUSUAL = (
    Voice("accent", "fr"),  # reads English words as if they were French
    Voice("child", "en-us+f4", wpm=112, pitch=70, played_hz=25600),
    Voice("croak", "en-us+croak", wpm=157, played_hz=17600),
    Voice("fast", "en-us+m1", wpm=165),  # at 190, there would be more letters than encoder frames of 40 ms
    Voice("slow", "en-us+m2", wpm=88),
    Voice("whisper", "en-us", wpm=102, played_hz=28000, is_whispered=True),  # formants rise in whispers
)
SETS = {  # voices, and number of utterances of each
    **BASE_SETS,
    "adapt_train": (UNUSUAL, 50),
    "adapt_valid": (UNUSUAL, 8),
    "adapt_test": (UNUSUAL, 50),
}


def main(
    data: Annotated[Path, typer.Argument(help="folder to write the six sets and their recordings to")],
    nj: Annotated[int, typer.Option(min=1, help="parallel jobs")] = 1,
    per_speaker: Annotated[int, typer.Option(min=1, help="most utterances of a voice in a set")] = 100,
) -> None:
    """Synthesise the mini corpus into data directories.

    Example: python local/prepare.py data --nj 2
    """
    synthesise_corpus(data, write_script(SETS, per_speaker), nj)


if __name__ == "__main__":
    run_script(main)
