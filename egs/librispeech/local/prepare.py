"""Prepare LibriSpeech: its parts as distributed, and sets to adapt to some speakers of one part.

CORPUS is LibriSpeech as unpacked, or the folder that contains it:
<part>/<speaker>/<chapter>/<speaker>-<chapter>-<number>.flac with <speaker>-<chapter>.trans.txt, and
SPEAKERS.TXT. It may also be a folder of data directories prepared by Kaldi or ESPnet (data/test_clean, or
dump/raw/test_clean).

Each part becomes a data directory, data/test_clean for test-clean. data/train, data/valid and data/test hold
the first speakers of the part to adapt to: the first minutes of each, the next minute, and the rest. These
sets are ours, since LibriSpeech has none: results on data/test are not those on test-clean. No
sentence of data/test is in data/train or data/valid, whoever reads it.

V. Panayotov, G. Chen, D. Povey and S. Khudanpur, LibriSpeech: an ASR corpus based on public domain audio
books, ICASSP 2015, https://www.openslr.org/12
"""

import logging
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from adaptkit.cli.script import run_script
from adaptkit.errors import DataError, counted, listed
from adaptkit.files import read_text, write_text
from adaptkit.kaldi import datadir, subset
from adaptkit.kaldi.datadir import DataDir, Utterance
from adaptkit.kaldi.durations import read_durations
from adaptkit.kaldi.recording import is_command, split_offset

EXPECTED = "CORPUS should be the folder LibriSpeech with parts such as test-clean, or one of data directories"
SPLITS = ("train", "valid", "test")


def main(
    corpus: Annotated[Path, typer.Argument(help="folder LibriSpeech, or of prepared data directories")],
    data: Annotated[Path, typer.Argument(help="folder to write the data directories to")],
    *,
    parts: Annotated[str, typer.Option(help="parts to prepare, separated by commas")] = "test-clean",
    adapt_to: Annotated[str, typer.Option(help="part with the speakers to adapt to")] = "test-clean",
    speakers: Annotated[int, typer.Option(help="number of speakers to adapt to", min=1)] = 8,
    minutes: Annotated[float, typer.Option(help="minutes of speech per speaker to train on", min=0)] = 3.0,
    valid_minutes: Annotated[
        float, typer.Option(help="minutes per speaker to select epochs on", min=0)
    ] = 1.0,
) -> None:
    """Write the data directories of parts of LibriSpeech, and of some speakers to adapt to.

    Example: python local/prepare.py downloads/LibriSpeech data --parts dev-clean,test-clean
    """
    genders = read_genders(corpus)
    for part in dict.fromkeys([*parts.split(","), adapt_to]):
        write(read_part(corpus, part, data / part.replace("-", "_")), genders)
    whole = datadir.read(data / adapt_to.replace("-", "_"))
    chosen = choose_speakers(whole, speakers, genders)
    for name, utt_ids in split(whole, chosen, minutes, valid_minutes).items():
        write(subset.subset(whole, utt_ids, path=data / name), genders)


def write(made: DataDir, genders: Mapping[str, str]) -> None:
    """Write a data directory, with spk2gender where genders are known."""
    datadir.write(made)
    speakers = sorted({utterance.speaker for utterance in made.utterances}, key=str.encode)
    known = [f"{speaker} {genders[speaker]}\n" for speaker in speakers if speaker in genders]
    if known:
        write_text(made.path / "spk2gender", "".join(known))
    logging.info("%s: %d utterances of %d speakers", made.path, len(made.utterances), len(speakers))


def read_part(corpus: Path, part: str, path: Path) -> DataDir:
    """Read a part as distributed, or its prepared data directory, as the data directory `path`."""
    prepared = [corpus / part.replace("-", "_"), corpus / part]
    found = next((folder for folder in prepared if (folder / "wav.scp").exists()), None)
    if found is not None:
        return read_prepared(found, path)
    folder = next(
        (folder for folder in (corpus / part, corpus / "LibriSpeech" / part) if folder.is_dir()), None
    )
    if folder is None:
        raise DataError(f"{corpus}: no part {part}, nor a data directory {prepared[0].name}; {EXPECTED}")
    return read_distributed(folder, path)


def read_distributed(folder: Path, path: Path) -> DataDir:
    """Read an unpacked part as the data directory `path`."""
    utterances, recordings, missing = [], {}, []
    for transcript in sorted(folder.glob("*/*/*.trans.txt")):
        for number, line in enumerate(read_text(transcript).splitlines(), start=1):
            utt_id, _, text = line.partition(" ")
            if not re.fullmatch(r"\d+-\d+-\d+", utt_id) or not text.strip():
                raise DataError(f"{transcript}:{number}: '{line}' is not 'SPEAKER-CHAPTER-NUMBER WORDS'")
            audio = transcript.with_name(f"{utt_id}.flac")
            missing += [] if audio.is_file() else [audio.name]
            utterances.append(Utterance(utt_id, utt_id.split("-")[0], utt_id, " ".join(text.split())))
            recordings[utt_id] = str(audio.resolve())
    if not utterances:
        raise DataError(f"{folder}: no <speaker>/<chapter>/*.trans.txt; {EXPECTED}")
    if missing:
        names = listed(missing, most=3)
        number = counted(len(missing), "recording")
        raise DataError(f"{folder}: {number} missing: {names}; unpack the part again")
    return DataDir(path, tuple(utterances), recordings)


def read_prepared(folder: Path, path: Path) -> DataDir:
    """Read a prepared data directory as `path`, without its features.

    The speaker is the reader, the first field of an utterance's id, whereas Kaldi's recipe treats each
    chapter as a speaker. Relative locations, which start at the folder of the recipe that wrote them, become
    absolute.
    """
    if folder.resolve() == path.resolve():
        raise DataError(f"{folder}: would be overwritten; move the prepared directories to another folder")
    whole = datadir.read(folder)
    utterances = [replace(u, speaker=u.utt_id.split("-")[0], task="") for u in whole.utterances]
    roots = (Path.cwd(), *folder.resolve().parents)
    recordings = {name: locate(place, roots) for name, place in whole.recordings.items()}
    return replace(whole, path=path, utterances=tuple(utterances), recordings=recordings, feats=None)


def locate(place: str, roots: Sequence[Path]) -> str:
    """Return the location of a recording in the first of several folders that has it, else unchanged."""
    if is_command(place):
        return place
    file = split_offset(place)[0]
    return next((str(root / place) for root in roots if (root / file).is_file()), place)


def read_genders(corpus: Path) -> dict[str, str]:
    """Read the gender, f or m, of each speaker from SPEAKERS.TXT; empty without it."""
    places = (corpus / "SPEAKERS.TXT", corpus / "LibriSpeech" / "SPEAKERS.TXT")
    place = next((path for path in places if path.is_file()), None)
    lines = read_text(place).splitlines() if place else []
    rows = [[field.strip() for field in line.split("|")] for line in lines if not line.startswith(";")]
    return {row[0]: row[1].lower() for row in rows if len(row) > 1 and row[1] in ("F", "M")}


def choose_speakers(data: DataDir, number: int, genders: Mapping[str, str]) -> list[str]:
    """Choose the first speakers by their numbers, of each gender in turn where genders are known."""
    queues = defaultdict(list)
    for speaker in sorted({utterance.speaker for utterance in data.utterances}, key=_in_order):
        queues[genders.get(speaker, "")].append(speaker)
    places = {name: place for queue in queues.values() for place, name in enumerate(queue)}
    return sorted(places, key=lambda name: (places[name], genders.get(name, ""), _in_order(name)))[:number]


def split(
    data: DataDir, speakers: Sequence[str], minutes: float, valid_minutes: float
) -> dict[str, list[str]]:
    """Return the utterances to train, validate and test on, of each speaker in the order of reading."""
    seconds = dict(zip(data.utterances.ids, read_durations(data).tolist(), strict=True))
    found = {name: [] for name in SPLITS}
    texts = {u.utt_id: u.text for u in data.utterances}
    for speaker in speakers:
        spoken = sorted((u.utt_id for u in data.utterances if u.speaker == speaker), key=_in_order)
        total, own = 0.0, {name: [] for name in SPLITS}
        for utt_id in spoken:
            name = SPLITS[(total >= 60 * minutes) + (total >= 60 * (minutes + valid_minutes))]
            own[name].append(utt_id)
            total += seconds[utt_id]
        if not all(own.values()):
            raise DataError(
                f"{data.path}: speaker {speaker} has {total / 60:.1f} minutes, too few for {minutes:g} to "
                f"train on, {valid_minutes:g} to validate on and some to test; lower --minutes or "
                "--valid-minutes"
            )
        for name in SPLITS:
            found[name] += own[name]
    heard = {texts[utt_id] for name in SPLITS[:2] for utt_id in found[name]}
    found["test"] = [utt_id for utt_id in found["test"] if texts[utt_id] not in heard]
    return found


def _in_order(name: str) -> tuple[tuple[int, str], ...]:
    """Order ids by their numbers: chapter 9 before chapter 10, and anything else before both."""
    return tuple((int(field), "") if field.isdigit() else (-1, field) for field in name.split("-"))


if __name__ == "__main__":
    run_script(main)
