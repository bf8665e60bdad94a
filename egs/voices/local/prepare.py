"""Synthesise a larger corpus: the 14 ordinary voices of egs/mini, unusual ones, and 8 more held out.

The ordinary voices are in base_train, base_valid and base_test, which are those of egs/mini; 32 unusual ones
are in adapt_train, adapt_valid and adapt_test, and the 8 others in new_train, new_valid and new_test, as
speakers unseen in training. With --many, many_train, many_valid and many_test contain the 32 and 96 more
unusual voices, and enrol_train the 8 others. A voice in two similar sets, such as adapt_train and many_train,
has the same sentences in both; the larger set adds more. The speaker is the task.
`adaptkit.corpora.espeak` describes the voices.
"""

from pathlib import Path
from typing import Annotated

import typer

from adaptkit.cli.script import run_script
from adaptkit.corpora.espeak import BASE_SETS, Voice, synthesise_corpus, write_script

# Voices of other languages read English words as if these were of their language. Where played_hz changes the
# speed, wpm compensates for most of it.
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
# Other voices, which the base model recognises as well as ordinary ones, were left out.
MORE = (
    Voice("albanian", "sq+m2"),
    Voice("android", "en-us+UniRobot", wpm=105),
    Voice("anika", "en-gb-x-rp+anika", wpm=108),
    Voice("announcer", "en-us+announcer", wpm=115),
    Voice("aragonese", "an+m5"),
    Voice("azeri", "az+f1", wpm=145),
    Voice("baritone", "en-gb-x-gbcwmd+m8", wpm=150, pitch=20, played_hz=19000),
    Voice("basque", "eu+m3"),
    Voice("bass", "en-us+Mike", wpm=158, pitch=10, played_hz=18000),
    Voice("bosnian", "bs+Jacky"),
    Voice("brummie", "en-gb-x-gbcwmd+f4", wpm=110, pitch=70, played_hz=26500),
    Voice("catalan", "ca+f1"),
    Voice("catalan1", "ca-va+Mario", wpm=140, played_hz=20500),
    Voice("child3", "en-us-nyc+m3", wpm=95, pitch=85, played_hz=31000),
    Voice("child4", "en-gb-scotland+m7", wpm=102, pitch=70, played_hz=29500),
    Voice("child5", "en-us+f4", wpm=112, pitch=60, played_hz=27500),
    Voice("croatian", "hr+m4"),
    Voice("czech1", "cs+f4", pitch=70),
    Voice("czech2", "cs+Gene", wpm=118, played_hz=24500),
    Voice("danish1", "da+f4", wpm=115),
    Voice("danish2", "da+m7", wpm=108, played_hz=25000),
    Voice("dutch2", "nl+m1", wpm=145, played_hz=19800),
    Voice("esperanto", "eo+m1"),
    Voice("estonian", "et+f1"),
    Voice("estonian1", "et+klatt4", wpm=140),
    Voice("farsi", "fa-latn+m3"),
    Voice("finnish1", "fi+m2", wpm=120, played_hz=25500),
    Voice("flemish", "nl+Henrique", wpm=115, played_hz=24500),
    Voice("french3", "fr+f4", pitch=75),
    Voice("french4", "fr-ch+f1", wpm=105, played_hz=25000),
    Voice("french5", "fr-be+Nguyen", wpm=120),
    Voice("gaelic", "gd+m3"),
    Voice("german1", "de+f1", pitch=65),
    Voice("german2", "de+m5", wpm=148, played_hz=19200),
    Voice("german3", "de+klatt"),
    Voice("giant1", "en-gb-x-rp+m3", wpm=165, pitch=30, played_hz=17200),
    Voice("giant2", "en-us+gustave", wpm=155, played_hz=17600),
    Voice("giant3", "en-us-nyc+f1", wpm=165, pitch=20, played_hz=16800),
    Voice("greenlandic", "kl+m4", wpm=150),
    Voice("guarani", "gn+m1"),
    Voice("haitian", "ht+f4"),
    Voice("hawaiian", "haw+m2", wpm=150),
    Voice("hungarian", "hu+f1"),
    Voice("hungarian1", "hu+Denis"),
    Voice("icelandic", "is+m1"),
    Voice("icelandic1", "is+f4", wpm=115, pitch=75, played_hz=25000),
    Voice("ido", "io+Alex"),
    Voice("indonesian", "id+f1"),
    Voice("irish1", "ga+f4", pitch=70),
    Voice("italian2", "it+m2", wpm=150, played_hz=18800),
    Voice("italian3", "it+Tweaky", wpm=115, played_hz=25000),
    Voice("iven", "en+iven", wpm=140, played_hz=19500),
    Voice("klatt", "en-gb-x-rp+klatt5", wpm=155, played_hz=18500),
    Voice("kurdish", "ku+m7"),
    Voice("latgalian", "ltg+m6"),
    Voice("latin", "la+m8", wpm=145),
    Voice("latvian", "lv+f1"),
    Voice("lilliputian", "en+belinda", wpm=90, pitch=85, played_hz=31500),
    Voice("lingua", "lfn+Michael"),
    Voice("lithuanian", "lt+m1", wpm=155),
    Voice("luxembourg", "lb+f1"),
    Voice("malay", "ms+m3"),
    Voice("maltese", "mt+f4"),
    Voice("marco", "en-us+Marco", wpm=180),
    Voice("oromo", "om+m2"),
    Voice("papiamento", "pap+f1"),
    Voice("pinched", "en-us+michel", wpm=112, pitch=80, played_hz=26500),
    Voice("polish1", "pl+f1", pitch=65),
    Voice("polish2", "pl+m3", wpm=118, played_hz=25000),
    Voice("portuguese1", "pt-br+f1"),
    Voice("portuguese2", "pt-br+paul", wpm=145, played_hz=19800),
    Voice("quechua", "qu+m5"),
    Voice("quenya", "qya+m2"),
    Voice("robot2", "en-us+robosoft2", wpm=105),
    Voice("robot3", "en-gb-x-rp+robosoft5", wpm=100, pitch=70),
    Voice("romanian", "ro+m2"),
    Voice("romanian1", "ro+f4", wpm=120, played_hz=25500),
    Voice("serbian", "sr+f1"),
    Voice("slovak", "sk+f1", pitch=35),
    Voice("slovenian", "sl+m3", wpm=155),
    Voice("spanish", "es+m1"),
    Voice("spanish1", "es-419+f1"),
    Voice("spanish2", "es+klatt3", wpm=115, played_hz=25000),
    Voice("swahili", "sw+m1", wpm=155),
    Voice("swedish1", "sv+m7", wpm=145, played_hz=19500),
    Voice("travis", "en-us+travis", wpm=110),
    Voice("tswana", "tn+f1", wpm=140),
    Voice("turkish", "tr+m2", wpm=145),
    Voice("vietnamese2", "vi-vn-x-central+f4", wpm=115),
    Voice("welsh", "cy+m4"),
    Voice("welsh1", "cy+f4", wpm=118, pitch=70, played_hz=25000),
    Voice("whisper4", "en-us+m3", wpm=150, played_hz=19500, is_whispered=True),
    Voice("whisper5", "en-us-nyc+f4", wpm=110, played_hz=26500, is_whispered=True),
    Voice("whisper6", "en-gb-x-rp+m1", wpm=120, played_hz=24000, is_whispered=True),
    Voice("whisper7", "en-029+f1", wpm=125, is_whispered=True),
    Voice("whisper8", "en-gb-x-gbclan+m4", wpm=105, played_hz=27500, is_whispered=True),
)
SETS = {  # voices, and number of utterances of each
    **BASE_SETS,
    "adapt_train": (UNUSUAL, 24),
    "adapt_valid": (UNUSUAL, 4),
    "adapt_test": (UNUSUAL, 20),
    "new_train": (NEW, 20),
    "new_valid": (NEW, 4),
    "new_test": (NEW, 20),
}
MANY_SETS = {
    "many_train": (UNUSUAL + MORE, 24),
    "many_valid": (UNUSUAL + MORE, 4),
    "many_test": (UNUSUAL + MORE, 10),
    "enrol_train": (NEW, 100),
}


def main(
    data: Annotated[Path, typer.Argument(help="folder to write the sets and their recordings to")],
    nj: Annotated[int, typer.Option(min=1, help="parallel jobs")] = 1,
    per_speaker: Annotated[int, typer.Option(min=1, help="most utterances of a voice in a set")] = 100,
    many: Annotated[bool, typer.Option("--many", help="also write the sets of 128 unusual voices")] = False,
) -> None:
    """Synthesise the corpus of voices into data directories.

    Example: python local/prepare.py data --nj 2
    """
    sets = {**SETS, **MANY_SETS} if many else SETS
    synthesise_corpus(data, write_script(sets, per_speaker), nj)


if __name__ == "__main__":
    run_script(main)
