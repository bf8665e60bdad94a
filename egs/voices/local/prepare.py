"""Speak a larger corpus: the 14 ordinary voices of egs/mini, 32 unusual ones, and 8 more that are kept apart.

The ordinary voices make base_train, base_valid and base_test, which are those of egs/mini; the unusual ones
make adapt_train, adapt_valid and adapt_test, and the 8 others new_train, new_valid and new_test, for speakers
whom no training has heard. The speaker is the task. `adaptkit.speaking` says how they speak.
"""

from pathlib import Path
from typing import Annotated

import typer

from adaptkit.cli.script import run_script
from adaptkit.speaking import BASE_SETS, Voice, speak_corpus, write_script

# A language reads English words as if they were its own. Where played_hz changes the speed, wpm makes up for
# most of it.
UNUSUAL = (
    Voice("afrikaans", "af+m4"),
    Voice("child", "en-us+f1", wpm=112, pitch=70, played_hz=26800),
    Voice("child1", "en-us+m1", wpm=90, pitch=80, played_hz=32000),
    Voice("child2", "en-gb-x-rp+m2", wpm=100, pitch=60, played_hz=30000),
    Voice("croak", "en-us+croak", wpm=157, played_hz=17600),
    Voice("czech", "cs"),
    Voice("danish", "da"),
    Voice("deep", "en-us+m3", wpm=157, played_hz=17800),
    Voice("deep1", "en-us+m1", wpm=160, played_hz=17800),
    Voice("deep2", "en-gb-x-rp+m7", wpm=155, played_hz=18300),
    Voice("dutch", "nl"),
    Voice("dutch1", "nl+f4"),
    Voice("elf", "en-us+zac"),
    Voice("fast", "en-us+m1", wpm=167),
    Voice("finnish", "fi+f1", wpm=145),
    Voice("french", "fr"),
    Voice("french1", "fr-ch+m2", wpm=120),
    Voice("french2", "fr-be+f1", wpm=125),
    Voice("german", "de"),
    Voice("irish", "ga+m1"),
    Voice("italian", "it+m3"),
    Voice("italian1", "it+f1", pitch=60),
    Voice("polish", "pl"),
    Voice("portuguese", "pt+m1"),
    Voice("robot", "en-us+robosoft", wpm=125),
    Voice("slow", "en-us+m2", wpm=97),
    Voice("slow1", "en-us+grandma", wpm=95),
    Voice("swedish", "sv+f1"),
    Voice("vietnamese", "vi+f1", wpm=140),
    Voice("whisper", "en-us+m1", wpm=140, played_hz=20800, is_whispered=True),
    Voice("whisper1", "en-us+m2", wpm=118, played_hz=24800, is_whispered=True),  # formants rise in whispers
    Voice("whisper2", "en-gb-scotland+m3", wpm=113, played_hz=25000, is_whispered=True),
)
NEW = (
    Voice("giant", "en-us+boris", wpm=148, played_hz=18800),
    Voice("norwegian", "nb"),
    Voice("old", "en-us+grandpa", wpm=105, pitch=20, played_hz=20500),
    Voice("robot1", "en-us+klatt2", wpm=150, played_hz=18500),
    Voice("squeak", "en-us+f4", wpm=118, pitch=99, played_hz=25000),
    Voice("steph", "en-us+steph3"),
    Voice("vietnamese1", "vi-vn-x-south+m3"),
    Voice("whisper3", "en-us+f1", wpm=112, played_hz=26000, is_whispered=True),
)
SETS = {  # the voices and the utterances of each
    **BASE_SETS,
    "adapt_train": (UNUSUAL, 24),
    "adapt_valid": (UNUSUAL, 4),
    "adapt_test": (UNUSUAL, 20),
    "new_train": (NEW, 20),
    "new_valid": (NEW, 4),
    "new_test": (NEW, 20),
}


def main(
    data: Annotated[Path, typer.Argument(help="folder to make the nine sets and their recordings in")],
    nj: Annotated[int, typer.Option(min=1, help="processes that speak")] = 1,
    per_speaker: Annotated[int, typer.Option(min=1, help="most utterances of a voice in a set")] = 100,
) -> None:
    """Speak the corpus of voices into data directories.

    Example: python local/prepare.py data --nj 2
    """
    speak_corpus(data, write_script(SETS, per_speaker), nj)


if __name__ == "__main__":
    run_script(main)
