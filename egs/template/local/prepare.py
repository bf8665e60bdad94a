"""Prepare data/train, data/valid and data/test from a corpus with one recording per utterance.

Expected below CORPUS: {train,valid,test}/<speaker>/<name>.wav (or .flac), each with its words in <name>.txt.
Change `read_set` if your corpus has another layout. An utterance id begins with the speaker, so that
utterances sort by speaker; the speaker is also the task that an adapter is trained for.
"""

import logging
from pathlib import Path
from typing import Annotated

import typer

from adaptkit.cli.script import run_script
from adaptkit.errors import DataError
from adaptkit.files import read_text
from adaptkit.kaldi import datadir
from adaptkit.kaldi.datadir import DataDir, Utterance

SETS = ("train", "valid", "test")
ENDINGS = (".wav", ".flac")


def main(
    corpus: Annotated[Path, typer.Argument(help="folder that contains train/, valid/ and test/")],
    data: Annotated[Path, typer.Argument(help="folder to write the data directories to")],
) -> None:
    """Write the data directories of a corpus.

    Example: python local/prepare.py /path/to/recordings data
    """
    for name in SETS:
        found = read_set(corpus / name)
        recordings = {utterance.recording: str(audio.resolve()) for utterance, audio in found.items()}
        datadir.write(DataDir(data / name, tuple(found), recordings))
        speakers = {utterance.speaker for utterance in found}
        logging.info("%s: %d utterances of %d speakers", data / name, len(found), len(speakers))


def read_set(folder: Path) -> dict[Utterance, Path]:
    """Read the utterances of a set, with the recording of each."""
    audio = sorted(path for path in folder.glob("*/*") if path.suffix.lower() in ENDINGS)
    if not audio:
        raise DataError(f"{folder}: no <speaker>/<name>.wav or .flac; change read_set to your layout")
    return {make_utterance(path): path for path in audio}


def make_utterance(audio: Path) -> Utterance:
    """Return the utterance of a recording; its words, from the .txt beside it, become upper case.

    White space in names becomes "_", since the columns of tables end at it.
    """
    speaker, name = ("_".join(part.split()) for part in (audio.parent.name, audio.stem))
    utt_id = f"{speaker}-{name}"
    text = " ".join(read_text(audio.with_suffix(".txt")).upper().split())
    return Utterance(utt_id, speaker, recording=utt_id, text=text)


if __name__ == "__main__":
    run_script(main)
