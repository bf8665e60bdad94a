"""Synthetic voices of eSpeak NG that read varied English texts, to widen the training set of a base model.

Half of the lines are given sentences, half random words: common English ones of the package wordfreq, each
with a probability proportional to the root of its frequency, so that rare words occur too.
"""

import math
import random
import re
from collections.abc import Sequence
from importlib.util import find_spec

from adaptkit.corpora.espeak import ESPEAK_HZ, Line, Voice
from adaptkit.errors import AdaptkitError

ACCENTS = (
    *("en-us", "en-us", "en-us", "en-us-nyc", "en-gb-x-rp", "en-gb-scotland"),
    *("en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-029"),
)
# No variants that set `breath`: their noise differs between processes.
VARIANTS = (
    *(
        "m1",
        "m2",
        "m3",
        "m4",
        "m5",
        "m6",
        "m7",
        "m8",
        "f1",
        "f4",
        "Alex",
        "Annie",
        "Denis",
        "Gene",
        "Henrique",
    ),
    *("Marco", "Mario", "Michael", "Mike", "Nguyen", "anika", "announcer", "aunty", "belinda", "boris"),
    *("grandma", "grandpa", "linda", "michel", "paul", "steph3", "travis", "zac"),
)
CHILDREN = 0.4  # share of the voices that are played faster, which raises pitch and formants
WORDS = 8000


def make_voices(number: int) -> list[Voice]:
    """Draw voices of many accents, tempos and sizes, the same in every run."""
    return [_draw_voice(index) for index in range(number)]


def _draw_voice(index: int) -> Voice:
    rng = random.Random(f"voice {index}")
    is_child = rng.random() < CHILDREN
    played_hz = 100 * (rng.randint(250, 305) if is_child else rng.randint(195, 245))
    wpm = round(rng.uniform(90, 155) * ESPEAK_HZ / played_hz)
    return Voice(
        f"voice{index:03}",
        f"{rng.choice(ACCENTS)}+{rng.choice(VARIANTS)}",
        wpm=max(wpm, 86),  # a line varies it by 7 %, and eSpeak's lowest is 80
        pitch=rng.randint(25, 75),
        played_hz=played_hz,
    )


def write_lines(voices: Sequence[Voice], sentences: Sequence[str], part: str, number: int) -> list[Line]:
    """Return `number` lines of each voice, in turns a sentence and random words."""
    rng = random.Random(f"lines {part}")
    words, weights = _common_words()
    turns = rng.sample(sentences, len(sentences))
    lines = []
    for position, voice in enumerate(voices):
        for index in range(1, number + 1):
            if index % 2:
                text = turns[(position * ((number + 1) // 2) + index // 2) % len(turns)]
            else:
                text = " ".join(rng.choices(words, weights, k=rng.randint(3, 9)))
            lines.append(Line(voice, part, index, text))
    return lines


def _common_words() -> tuple[list[str], list[float]]:
    """Return common words of letters and apostrophes, in upper case, with their weights."""
    if find_spec("wordfreq") is None:
        raise AdaptkitError("wordfreq is not installed; pip install 'adaptkit[mini]' adds it")
    import wordfreq

    found = wordfreq.top_n_list("en", WORDS)
    words = [word for word in found if re.fullmatch(r"[ai]|[a-z][a-z']*[a-z]", word)]
    weights = [math.sqrt(wordfreq.word_frequency(word, "en")) for word in words]
    return [word.upper() for word in words], weights
