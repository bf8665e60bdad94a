"""Draw the lists that split speechocean762's training half, the input of prepare.py.

lists/base.txt and base_valid.txt hold the speakers for training and validation of the base model, tasks.txt
those for whom adapters are trained, and new.txt those who are only enrolled. Every list has the same share of
children, teenagers and adults. lists/adapt.txt holds half of the utterances of the speakers of tasks.txt and
new.txt for adaptation: 8 for training and, in valid.txt, 2 for validation; the other half is for testing. No
sentence of the corpus occurs twice.
"""

import random
from pathlib import Path
from typing import Annotated

import typer

from adaptkit.cli.script import run_script
from adaptkit.corpora.speechocean762 import read_corpus
from adaptkit.files import write_text

SIZES = {"base": 59, "base_valid": 4, "tasks": 50, "new": 12}  # speakers
ADAPT, VALID = 8, 2  # utterances per speaker; the others are for testing


def main(
    corpus: Annotated[Path, typer.Argument(help="folder of speechocean762")],
    lists: Annotated[Path, typer.Argument(help="folder to write the lists to")],
) -> None:
    """Draw the lists, the same in every run.

    Example: python local/make_lists.py downloads/speechocean762 lists
    """
    by_speaker: dict[str, list[str]] = {}
    group: dict[str, str] = {}
    for utterance in read_corpus(corpus).utterances:
        by_speaker.setdefault(utterance.speaker, []).append(utterance.utt_id)
        group[utterance.speaker] = utterance.group
    chosen = deal(group)
    for name, speakers in chosen.items():
        write_list(lists / f"{name}.txt", speakers)
    adapt, valid = [], []
    for speaker in sorted(chosen["tasks"] + chosen["new"]):
        ids = random.Random(f"utterances {speaker}").sample(by_speaker[speaker], ADAPT + VALID)
        adapt += ids[:ADAPT]
        valid += ids[ADAPT:]
    write_list(lists / "adapt.txt", adapt)
    write_list(lists / "valid.txt", valid)


def deal(group: dict[str, str]) -> dict[str, list[str]]:
    """Deal speakers to the lists, evenly spaced along a random order within each group."""
    rng, order = random.Random("speakers"), []
    for name in sorted(set(group.values())):
        own = [speaker for speaker in group if group[speaker] == name]
        order += rng.sample(own, len(own))
    total, chosen, taken = len(order), {name: [] for name in SIZES}, dict.fromkeys(SIZES, 0)
    for position, speaker in enumerate(order, start=1):
        behind = max(SIZES, key=lambda name: SIZES[name] * position / total - taken[name])
        chosen[behind].append(speaker)
        taken[behind] += 1
    return chosen


def write_list(path: Path, names: list[str]) -> None:
    """Write names in order, one per line."""
    write_text(path, "".join(f"{name}\n" for name in sorted(names)))


if __name__ == "__main__":
    run_script(main)
