"""Prepare data/train, data/valid and data/test from AN4 (CMU's "Census" recordings of 1991) as distributed.

`adaptkit.corpora.an4` describes the expected layout of CORPUS.

For experiments with noise and with long utterances, --noise also writes noise_train and noise_test, lists of
noise recordings of different types; test_long, the test set joined to at most 20 s; train_lengths and
valid_lengths, with half of each speaker's utterances unchanged and half joined; and test and test_long at
several SNRs, for example test_10db.

The test set is the official one. AN4 has no validation set: the speakers in valid_speakers.txt (ours, drawn
once at random, 4 of 74 speakers and 5 % of the utterances) are moved from the training set to it.
"""

import logging
from collections import defaultdict
from pathlib import Path
from typing import Annotated

import typer

from adaptkit.cli.script import run_script
from adaptkit.corpora import noise_sets
from adaptkit.corpora.an4 import read_set
from adaptkit.files import read_text
from adaptkit.kaldi import datadir, subset
from adaptkit.kaldi.datadir import DataDir
from adaptkit.kaldi.join import join

LONG_SEC = 20.0
VALID_SPEAKERS = Path(__file__).with_name("valid_speakers.txt")


def main(
    corpus: Annotated[Path, typer.Argument(help="folder of AN4, which contains etc/")],
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


if __name__ == "__main__":
    run_script(main)
