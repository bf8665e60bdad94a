"""Prepare data/train, data/valid and data/test from AN4 (CMU's "Census" recordings of 1991) as distributed.

Expected below CORPUS: etc/an4_{train,test}.{fileids,transcription} and the audio files that the file ids
name, <id>.flac, .wav, .sph or .raw, directly below CORPUS or below CORPUS/wav. The README of the raw files
says little endian, those we saw are big endian: adaptkit.kaldi.recording detects the byte order by level.

For experiments with noise and with long utterances, --noise also writes noise_train and noise_test, lists of
noise recordings that share no type; test_long, the test set joined to at most 20 s; train_lengths and
valid_lengths, half of each speaker's utterances unchanged and half joined; and test and test_long at several
SNRs, for example test_10db.

The test set is the official one. AN4 has no validation set: the speakers in valid_speakers.txt (ours, drawn
once at random, 4 of 74 speakers and 5 % of the utterances) are moved from the training set to it.
A. Acero, Acoustical and environmental robustness in automatic speech recognition, Kluwer, 1993.
"""

import logging
import re
from collections import defaultdict
from pathlib import Path
from typing import Annotated

import typer

from adaptkit.cli.script import run_script
from adaptkit.corpora import noise_sets
from adaptkit.errors import DataError, listed
from adaptkit.files import read_text
from adaptkit.kaldi import datadir, subset
from adaptkit.kaldi.datadir import DataDir, Utterance
from adaptkit.kaldi.join import join

ENDINGS = (".flac", ".wav", ".sph", ".raw")
EXPECTED = (
    "CORPUS should be the folder of AN4 that holds etc/ and the audio; "
    "the original is on the pages of CMU's speech group, under databases, AN4"
)
LONG_SEC = 20.0
VALID_SPEAKERS = Path(__file__).with_name("valid_speakers.txt")


def main(
    corpus: Annotated[Path, typer.Argument(help="folder of AN4, the one that contains etc/")],
    data: Annotated[Path, typer.Argument(help="folder to write train, valid and test to")],
    noise: Annotated[
        Path | None,
        typer.Option(help="folder of noises: <type>.wav, <type>/*.flac; adds noisy and long sets"),
    ] = None,
) -> None:
    """Write the data directories of AN4.

    Example: python local/prepare.py downloads/an4 data
    """
    train, test = read_set(corpus, "train"), read_set(corpus, "test")
    chosen = read_text(VALID_SPEAKERS).split()
    sets = {
        "train": {u: path for u, path in train.items() if u.speaker not in chosen},
        "valid": {u: path for u, path in train.items() if u.speaker in chosen},
        "test": test,
    }
    for name, found in sets.items():
        datadir.write(DataDir(data / name, tuple(found), {u.recording: str(p) for u, p in found.items()}))
        logging.info(
            "%s: %d utterances of %d speakers", data / name, len(found), len({u.speaker for u in found})
        )
    if noise:
        noise_sets.write_noise_lists(noise, data)
        test = datadir.read(data / "test")
        subset.save(join(test, path=data / "test_long", most_sec=LONG_SEC), [test])
        for name in ("train", "valid"):
            write_lengths(data / name, data / f"{name}_lengths")
        noise_sets.copy_tests(data, ["test", "test_long"])


def write_lengths(source: Path, out_dir: Path) -> None:
    """Write every other utterance of each speaker unchanged, and the rest joined, so that lengths vary."""
    data = datadir.read(source)
    speakers = defaultdict(list)
    for utterance in data.utterances:
        speakers[utterance.speaker].append(utterance.utt_id)
    kept, rest = (
        subset.subset(data, [utt_id for ids in speakers.values() for utt_id in ids[first::2]], path=source)
        for first in (0, 1)
    )
    subset.save(subset.combine([kept, join(rest, path=out_dir, most_sec=LONG_SEC)], path=out_dir), [data])


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
        raise DataError(f"{path}: {what} for {len(file_ids)} utterances: {listed(file_ids, most=3)}")


if __name__ == "__main__":
    run_script(main)
