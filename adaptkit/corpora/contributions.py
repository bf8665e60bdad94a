"""Read the Speech Accessibility Project's corpus: a json for each contributor, beside their recordings.

`<contributor>/<contributor>.json` has `Contributor ID` and a list `Files`, each with `Filename` and `Prompt`,
whose `Transcript` says what was spoken. Marks in transcripts are read as in the data preparation of the
project's challenge (https://github.com/xiuwenz2/SAPC-template): what is in parentheses, such as repetitions
and fillers, is left out; `{g: word}` is the best guess at a word, and `~` stands before single letters. A
transcript with `#ts` has a line `start end words` for each part of a recording.

Zheng et al., The Interspeech 2025 Speech Accessibility Project Challenge, arXiv:2507.22047.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adaptkit.errors import DataError, shorten
from adaptkit.files import parse_json, read_text, require_regular

_UNKNOWN = re.compile(r"\{\s*[wu]\s*:?|\{\s*\}|\[[^\]]*\]|\((?:cs|ss)\s*:", re.IGNORECASE)
_REMOVED = "words that are unknown, withheld or another person's"


@dataclass(frozen=True)
class Entry:
    """An utterance of a corpus in another layout."""

    place: str  # in the corpus, for messages
    audio: Path
    text: str  # of one that is unusable, why
    speaker: str  # empty if the corpus does not say
    start_sec: float | None = None  # None for the whole recording
    end_sec: float | None = None
    is_unusable: bool = False  # as the corpus itself says, not by mistake


def read_contributions(source: Path) -> Iterator[Entry]:
    """Read every contributor's json below a folder, or one of them."""
    paths = sorted(source.rglob("*.json")) if source.is_dir() else [source]
    for path in paths:
        require_regular(path)
        try:
            content = parse_json(read_text(path).removeprefix("\ufeff"))
        except ValueError as error:
            raise DataError(f"{path}: not json: {error}; fetch it again") from error
        if not isinstance(content, dict) or not isinstance(content.get("Files"), list):
            raise DataError(f"{path}: no list 'Files', as a contributor's json has; move it away")
        speaker = str(content.get("Contributor ID") or path.stem)
        for file in content["Files"]:
            yield from _read_file(path, file, speaker)


def _read_file(path: Path, file: Any, speaker: str) -> Iterator[Entry]:
    """Read a recording, in parts if its transcript has times."""
    name, prompt = (
        (file.get(key) for key in ("Filename", "Prompt")) if isinstance(file, dict) else (None, None)
    )
    transcript = prompt.get("Transcript") if isinstance(prompt, Mapping) else None
    if not isinstance(name, str) or not isinstance(transcript, str) or "\0" in name:
        raise DataError(f"{path}: an entry of 'Files' lacks Filename or Prompt: Transcript; fetch it again")
    place, audio = f"{path}: {name}", path.parent / name
    if "#ts" not in transcript:
        yield _as_entry(place, audio, transcript, speaker)
        return
    for line in transcript.strip().split("\n")[1:]:
        if not line.strip():
            continue
        times = re.match(r"\s*(\d+(?:\.\d+)?)\s+(\d+(?:\.\d+)?)\s(.*)", line)
        if not times:
            raise DataError(f"{place}: '{shorten(line)}' is not 'start end words'; correct the transcript")
        span = float(times[1]), float(times[2])
        yield _as_entry(f"{place} at {times[1]} s", audio, times[3], speaker, span)


def _as_entry(
    place: str,
    audio: Path,
    transcript: str,
    speaker: str,
    span: tuple[float | None, float | None] = (None, None),
) -> Entry:
    if _UNKNOWN.search(transcript):
        return Entry(place, audio, _REMOVED, speaker, is_unusable=True)
    return Entry(place, audio, plain_words(transcript), speaker, *span)


def plain_words(transcript: str) -> str:
    """Return the words of a transcript without its marks; spelling and punctuation stay.

    >>> plain_words("(And) And {g: idol}, ~J ~E (uh) (s-) m-my")
    'And idol, J E m-my'
    """
    text = re.sub(r"\([^)]*\)", " ", transcript)
    text = re.sub(r"\{\s*[a-z]+\s*:([^}]*)\}", r"\1", text, flags=re.IGNORECASE)
    text = re.sub(r"\s+([,.?!;])", r"\1", re.sub(r"[~*]", " ", text))
    return " ".join(text.split())
