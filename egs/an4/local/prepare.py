"""Turn AN4 (CMU's "Census" recordings of 1991) as distributed into data/train, data/valid and data/test.

Expected below CORPUS: etc/an4_{train,test}.{fileids,transcription} and the audio the file ids name, as
<id>.flac, .wav, .sph or .raw, at once below CORPUS or below CORPUS/wav. The README of the raw files says
little endian, those seen are big endian: adaptkit.kaldi.audio decides by their level.

With --noise there are also, for experiments with noise and with long utterances: noise_train and noise_test,
lists of recordings of noise that share no type; test_long, the test set joined to at most 20 s; train_lengths
and valid_lengths, half of each speaker's utterances as they are and half joined; and test and test_long at
several ratios of speech to noise, test_10db say.

The test set is the official one. AN4 has no validation set: the speakers of valid_speakers.txt (ours, drawn
once at random, 4 of 74 speakers and 5 % of the utterances) leave the training set for it.
A. Acero, Acoustical and environmental robustness in automatic speech recognition, Kluwer, 1993.
"""

import logging
import re
from collections import defaultdict
from pathlib import Path
from typing import Annotated

import typer

from adaptkit.augment import copies
from adaptkit.cli.script import run_script
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
    corpus: Annotated[Path, typer.Argument(help="folder of AN4, the one that holds etc/")],
    data: Annotated[Path, typer.Argument(help="folder to make train, valid and test in")],
    noise: Annotated[
        Path | None,
        typer.Option(help="folder of noises: <type>.wav, <type>/*.flac; makes noisy and long sets"),
    ] = None,
) -> None:
    """Write AN4's data directories.

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
        copies.write_noise_lists(noise, data)
        test = datadir.read(data / "test")
        subset.save(join(test, path=data / "test_long", most_sec=LONG_SEC), [test])
        for name in ("train", "valid"):
            write_lengths(data / name, data / f"{name}_lengths")
        copies.copy_tests(data, ["test", "test_long"])


def write_lengths(source: Path, out_dir: Path) -> None:
    """Write every other utterance of each speaker as it is, and the rest joined, so that lengths vary."""
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
    """Read the official set `name` and where the audio of each of its utterances is."""
    ids, texts = (corpus / "etc" / f"an4_{name}.{ending}" for ending in ("fileids", "transcription"))
    for path in (ids, texts):
        if not path.is_file():
            raise DataError(f"{path}: no such file; {EXPECTED}")
    file_ids, spoken = read_text(ids).split(), read_transcription(texts)
    found = {file_id: find_audio(corpus, file_id) for file_id in file_ids}
    _refuse(ids, "no audio below the corpus or its wav/", [i for i, path in found.items() if path is None])
    _refuse(texts, "no transcription", [i for i in file_ids if i.rpartition("/")[2] not in spoken])
    return {describe(file_id, spoken): path for file_id, path in found.items()}


def describe(file_id: str, spoken: dict[str, str]) -> Utterance:
    """Name the utterance of a file id; the speaker comes first, so that utterances sort by speaker."""
    speaker, name = file_id.split("/")[-2:]
    return Utterance(f"{speaker}-{name}", speaker, recording=f"{speaker}-{name}", text=spoken[name])


def read_transcription(path: Path) -> dict[str, str]:
    """Read lines of `<s> WORDS </s> (name)`, with or without the marks, into upper-case words by name."""
    spoken = {}
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        match = re.fullmatch(r"(.*\S)\s*\((\S+)\)\s*", line)
        if not match:
            raise DataError(f"{path}:{number}: '{line}' is not 'WORDS (name)'")
        words = [word for word in match[1].upper().split() if not word.startswith("<")]
        spoken[match[2]] = " ".join(words)
    return spoken


def find_audio(corpus: Path, file_id: str) -> Path | None:
    """Find the recording of a file id in any of the forms AN4 is distributed in."""
    stems = (corpus / file_id, corpus / "wav" / file_id)
    places = (stem.with_name(stem.name + ending) for stem in stems for ending in ENDINGS)
    return next((place.resolve() for place in places if place.is_file()), None)


def _refuse(path: Path, what: str, file_ids: list[str]) -> None:
    if file_ids:
        raise DataError(f"{path}: {what} for {len(file_ids)} utterances: {listed(file_ids, most=3)}")


if __name__ == "__main__":
    run_script(main)
