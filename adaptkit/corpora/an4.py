"""Read AN4, CMU's "Census" recordings of 1991, as distributed.

Expected below CORPUS: etc/an4_{train,test}.{fileids,transcription} and the audio files that the file ids
name, <id>.flac, .wav, .sph or .raw, directly below CORPUS or below CORPUS/wav. The README of the raw files
says little endian, those we saw are big endian: adaptkit.kaldi.recording detects the byte order by level.

A. Acero, Acoustical and environmental robustness in automatic speech recognition, Kluwer, 1993.
"""

import re
from pathlib import Path

from adaptkit.errors import DataError, counted, listed
from adaptkit.files import read_text
from adaptkit.kaldi.datadir import Utterance

ENDINGS = (".flac", ".wav", ".sph", ".raw")
EXPECTED = (
    "CORPUS should be the folder of AN4 that holds etc/ and the audio; "
    "the original is on the pages of CMU's speech group, under databases, AN4"
)


def read_set(corpus: Path, name: str) -> dict[Utterance, Path]:
    """Read the utterances of the official set `name`, with the audio file of each."""
    ids, texts = (corpus / "etc" / f"an4_{name}.{ending}" for ending in ("fileids", "transcription"))
    for path in (ids, texts):
        if not path.is_file():
            raise DataError(f"{path}: no such file; {EXPECTED}")
    file_ids, spoken = read_text(ids).split(), read_transcription(texts)
    found = {file_id: find_audio(corpus, file_id) for file_id in file_ids}
    _refuse(ids, "no audio below the corpus or its wav/", [i for i, path in found.items() if path is None])
    _refuse(texts, "no transcription", [i for i in file_ids if i.rpartition("/")[2] not in spoken])
    return {make_utterance(file_id, spoken): path for file_id, path in found.items()}


def make_utterance(file_id: str, spoken: dict[str, str]) -> Utterance:
    """Return the utterance of a file id; its id begins with the speaker, to sort utterances by speaker."""
    speaker, name = file_id.split("/")[-2:]
    return Utterance(f"{speaker}-{name}", speaker, recording=f"{speaker}-{name}", text=spoken[name])


def read_transcription(path: Path) -> dict[str, str]:
    """Read lines of `<s> WORDS </s> (name)`, with or without sentence marks, as upper-case words by name."""
    spoken = {}
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        match = re.fullmatch(r"(.*\S)\s*\((\S+)\)\s*", line)
        if not match:
            raise DataError(f"{path}:{number}: '{line}' is not 'WORDS (name)'")
        words = [word for word in match[1].upper().split() if not word.startswith("<")]
        spoken[match[2]] = " ".join(words)
    return spoken


def find_audio(corpus: Path, file_id: str) -> Path | None:
    """Find the recording of a file id in any of the formats in which AN4 is distributed."""
    stems = (corpus / file_id, corpus / "wav" / file_id)
    places = (stem.with_name(stem.name + ending) for stem in stems for ending in ENDINGS)
    return next((place.resolve() for place in places if place.is_file()), None)


def _refuse(path: Path, what: str, file_ids: list[str]) -> None:
    if file_ids:
        raise DataError(f"{path}: {what} for {counted(len(file_ids), 'utterance')}: {listed(file_ids, 3)}")
