"""Prepare speechocean762: the sets of the base model, and those of 62 other speakers.

adapt_train, adapt_valid and adapt_test hold 50 speakers with 8, 2 and 10 utterances each; new_train and
new_test hold 12 more, to enroll, with 10 and 10. Speaker groups are child (up to 12 years), teenager and
adult. lists/ holds the split, drawn by local/make_lists.py from the training half of the corpus; the
official test half is not used.

voices_train and voices_valid hold synthetic voices that read the sentences of 59 other speakers and random
words. base_train holds these speakers and, with --an4, AN4's training set, each at three speeds (0.9, 1,
1.1), and a third of voices_train; base_valid holds 4 more speakers. Sentences of the other sets are among
them only by chance.
"""

import logging
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from adaptkit.cli.script import run_script
from adaptkit.corpora import an4, readers
from adaptkit.corpora.espeak import synthesise_corpus
from adaptkit.corpora.speechocean762 import read_corpus
from adaptkit.files import read_text
from adaptkit.kaldi import datadir, subset
from adaptkit.kaldi.datadir import DataDir, Utterance
from adaptkit.kaldi.perturb import perturb

LISTS = Path(__file__).parents[1] / "lists"
LINES = 60  # per synthetic voice
MIXED_LINES = 20  # of them, those that real speech is mixed with


def main(
    corpus: Annotated[Path, typer.Argument(help="folder of speechocean762, which contains WAVE/")],
    data: Annotated[Path, typer.Argument(help="folder to write the data directories to")],
    with_an4: Annotated[
        Path | None,
        typer.Option("--an4", help="folder of AN4, to add its training set to the base model's"),
    ] = None,
    voices: Annotated[int, typer.Option(min=1, help="synthetic voices for the base model")] = 80,
    nj: Annotated[int, typer.Option(min=1, help="parallel jobs")] = 1,
) -> None:
    """Write the data directories of speechocean762.

    Example: python local/prepare.py downloads/speechocean762 data --an4 downloads/an4
    """
    whole = read_corpus(corpus)
    speakers = {name: read_list(name) for name in ("base", "base_valid", "tasks", "new")}
    adapt, valid = read_list("adapt"), read_list("valid")
    unseen, new = (ids_of(whole, speakers[name]) for name in ("tasks", "new"))
    sets = {
        "base_valid": ids_of(whole, speakers["base_valid"]),
        "adapt_train": unseen & adapt,
        "adapt_valid": unseen & valid,
        "adapt_test": unseen - adapt - valid,
        "new_train": new & (adapt | valid),
        "new_test": new - adapt - valid,
    }
    for name, ids in sets.items():
        write(subset.subset(whole, ids, path=data / name), [whole])
    real = subset.subset(whole, ids_of(whole, speakers["base"]), path=data / "base_real")
    sentences = sorted({utterance.text for utterance in real.utterances})
    if with_an4 is not None:
        real = subset.combine([real, read_an4(with_an4, data)], path=real.path)
    real = replace(real, utterances=tuple(replace(u, group="") for u in real.utterances))
    write(real, [whole])
    readers_of = readers.make_voices(voices)
    script = {
        name: readers.write_lines(readers_of, sentences, name, number)
        for name, number in (("voices_train", LINES), ("voices_valid", 1))
    }
    synthesise_corpus(data, script, nj)
    synthetic = datadir.read(data / "voices_train")
    mixed = subset.choose_per_speaker(synthetic, MIXED_LINES)
    parts = [
        perturb(data / "base_real", data / "base_speeds", num_jobs=nj),
        subset.subset(synthetic, mixed, path=data / "voices_mixed"),
    ]
    write(subset.combine(parts, path=data / "base_train"), parts)


def ids_of(data: DataDir, speakers: Iterable[str]) -> set[str]:
    """Return the ids of some speakers' utterances."""
    return set(subset.choose_speakers(data, speakers))


def read_list(name: str) -> set[str]:
    """Read the names in one of the lists."""
    return set(read_text(LISTS / f"{name}.txt").split())


def read_an4(corpus: Path, data: Path) -> DataDir:
    """Return AN4's training set."""
    found: dict[Utterance, Path] = an4.read_set(corpus, "train")
    recordings = {u.recording: str(path) for u, path in found.items()}
    return DataDir(data / "an4", tuple(sorted(found, key=lambda u: u.utt_id.encode())), recordings)


def write(made: DataDir, parts: list[DataDir]) -> None:
    """Write a set and log its size."""
    subset.save(made, parts)
    speakers = {utterance.speaker for utterance in made.utterances}
    logging.info("%s: %d utterances of %d speakers", made.path, len(made.utterances), len(speakers))


if __name__ == "__main__":
    run_script(main)
