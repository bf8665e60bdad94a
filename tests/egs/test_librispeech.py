"""egs/librispeech/local/prepare.py on a tree like LibriSpeech's, and on data directories like Kaldi's."""

import os
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from adaptkit.errors import DataError
from adaptkit.kaldi import datadir
from adaptkit.kaldi.tables import read_table, write_table
from adaptkit.kaldi.validate import find_problems

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "egs/librispeech"
RECIPE = runpy.run_path(str(FOLDER / "local/prepare.py"))
SPLITS = ("train", "valid", "test")
HALF_SECOND = 0.5 / 60  # minutes
NAMES = {"84": "JAZZ", "121": "OLD", "672": "NEW", "1188": "MODEL"}  # what each speaker adds to a text
SPEAKERS = """;ID  |SEX| SUBSET           |MINUTES| NAME
121   | F | test-clean       | 8.13  | Nikolle Doolin
672   | M | test-clean       | 8.29  | Chuck Spear
1188  | M | test-clean       | 8.07  | Duncan Murrell
"""


def prepare(corpus, data, **options):
    """Two utterances of half a second to train on, two to validate on."""
    times = {"minutes": 2 * HALF_SECOND, "valid_minutes": 2 * HALF_SECOND}
    RECIPE["main"](corpus, data, **{**times, "speakers": 2, **options})


def write_part(folder, speakers):
    """Six utterances of half a second by each speaker, in chapters 9 and 10; ONE is in both."""
    for speaker in speakers:
        for chapter, texts in {"9": ("ONE", "TWO", "THREE", "FOUR"), "10": ("FIVE", "ONE")}.items():
            place = folder / speaker / chapter
            place.mkdir(parents=True)
            lines = []
            for number, text in enumerate(texts):
                utt_id = f"{speaker}-{chapter}-{number:04}"
                soundfile.write(place / f"{utt_id}.flac", 0.1 * np.sin(np.arange(8000) / 9), 16000)
                lines.append(f"{utt_id} {text}{' ' + NAMES[speaker] if text != 'ONE' else ''}\n")
            (place / f"{speaker}-{chapter}.trans.txt").write_text("".join(lines))


@pytest.fixture
def corpus(tmp_path):
    """A folder as LibriSpeech unpacks, with two parts."""
    write_part(tmp_path / "LibriSpeech/test-clean", ("672", "121", "1188"))
    write_part(tmp_path / "LibriSpeech/dev-clean", ("84",))
    (tmp_path / "LibriSpeech/SPEAKERS.TXT").write_text(SPEAKERS)
    return tmp_path / "LibriSpeech"


def ids(folder):
    return [utterance.utt_id for utterance in datadir.read(folder).utterances]


def test_parts_become_valid_data_directories(corpus, tmp_path):
    prepare(corpus, tmp_path / "data", parts="test-clean,dev-clean")
    names = ("test_clean", "dev_clean", *SPLITS)
    assert {name: find_problems(tmp_path / "data" / name) for name in names} == dict.fromkeys(names, [])
    first = datadir.read(tmp_path / "data/dev_clean").utterances[0]
    assert (first.utt_id, first.speaker, first.text) == ("84-10-0000", "84", "FIVE JAZZ")


def test_the_folder_around_the_corpus_is_as_good(corpus, tmp_path):
    prepare(corpus.parent, tmp_path / "data")
    assert len(ids(tmp_path / "data/test_clean")) == 18


def test_speakers_adapt_to_the_first_minutes_that_they_read(corpus, tmp_path):
    prepare(corpus, tmp_path / "data", speakers=1)
    assert ids(tmp_path / "data/train") == ["121-9-0000", "121-9-0001"]
    assert ids(tmp_path / "data/valid") == ["121-9-0002", "121-9-0003"]


def test_no_sentence_of_the_test_set_is_trained_on(corpus, tmp_path):
    prepare(corpus, tmp_path / "data")
    heard, tested = (
        {u.text for name in names for u in datadir.read(tmp_path / "data" / name).utterances}
        for names in (SPLITS[:2], SPLITS[2:])
    )
    assert "ONE" in heard
    assert tested == {"FIVE OLD", "FIVE NEW"}


def test_speakers_are_of_each_gender_in_turn(corpus, tmp_path):
    prepare(corpus, tmp_path / "data")
    assert read_table(tmp_path / "data/train/spk2gender") == {"121": "f", "672": "m"}


def test_speakers_without_genders_are_the_first_by_number(corpus, tmp_path):
    (corpus / "SPEAKERS.TXT").unlink()
    prepare(corpus, tmp_path / "data")
    assert set(read_table(tmp_path / "data/train/spk2utt")) == {"121", "672"}
    assert not (tmp_path / "data/train/spk2gender").exists()


def test_data_directories_of_kaldi_do_as_well(corpus, tmp_path):
    prepare(corpus, tmp_path / "made")
    prepared = tmp_path / "kaldi/test_clean"
    prepared.parent.mkdir()
    (tmp_path / "made/test_clean").rename(prepared)
    chapters = {utt_id: utt_id.rpartition("-")[0] for utt_id in ids(prepared)}
    write_table(prepared / "utt2spk", chapters)
    write_table(prepared / "spk2utt", datadir.invert(chapters))
    places = read_table(prepared / "wav.scp")
    relative = {name: str(Path(place).relative_to(tmp_path)) for name, place in places.items()}
    write_table(prepared / "wav.scp", relative)

    prepare(tmp_path / "kaldi", tmp_path / "again")

    assert find_problems(tmp_path / "again/test_clean") == []
    assert set(read_table(tmp_path / "again/test_clean/spk2utt")) == {"121", "672", "1188"}
    assert ids(tmp_path / "again/train") == ids(tmp_path / "made/train")
    assert read_table(tmp_path / "again/test_clean/wav.scp") == places


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"parts": "test-other"}, "no part test-other, nor a data directory test_other"),
        ({"minutes": 9.0}, "speaker 121 has 0.1 minutes, too few for 9 to train on"),
    ],
)
def test_what_is_not_there_is_refused(corpus, tmp_path, options, message):
    with pytest.raises(DataError, match=message):
        prepare(corpus, tmp_path / "data", **options)


def test_a_part_that_lacks_recordings_is_refused(corpus, tmp_path):
    (corpus / "test-clean/121/9/121-9-0001.flac").unlink()
    with pytest.raises(DataError, match=r"1 recording missing: 121-9-0001\.flac; unpack"):
        prepare(corpus, tmp_path / "data")


def test_prepared_directories_are_not_overwritten(corpus, tmp_path):
    prepare(corpus, tmp_path / "data")
    with pytest.raises(DataError, match="would be overwritten"):
        prepare(tmp_path / "data", tmp_path / "data")


@pytest.fixture
def clone(corpus, tmp_path, monkeypatch):
    """The recipe's folder in a copy of the repository, with prepared data, as the working folder."""
    made = shutil.ignore_patterns("data", "dump", "exp")
    folder = shutil.copytree(FOLDER, tmp_path / "clone/egs/librispeech", symlinks=True, ignore=made)
    (tmp_path / "clone/recipes").symlink_to(ROOT / "recipes")
    prepare(corpus, folder / "data")
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.slow
def test_a_released_model_is_decoded_and_adapted(clone, new_archive, adaptkit):
    runner = clone / "runner"  # in place of queue.pl: it only writes down what the recipe runs
    runner.write_text('#!/bin/sh\nshift\necho "$@" >>jobs\n')
    runner.chmod(0o755)
    words = ["--base", new_archive("librispeech_conformer"), "--cmd", runner, "--stage", 5, "--stop-stage", 7]
    options = ["--set", "train.max_epochs=1", "--search", "greedy"]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    recipe = [str(word) for word in ("./run.sh", *words, *options)]
    subprocess.run(recipe, env={**os.environ, "PATH": path}, capture_output=True, check=True)

    jobs = [shlex.split(job)[1:] for job in (clone / "jobs").read_text().splitlines()]
    for decoded in ("none", "residual"):
        compared = [] if decoded == "none" else ["--compare", "exp/none/decode_test"]
        jobs.append(["score", "data/test", f"exp/{decoded}/decode_test", *compared])
    for job in jobs:
        done = adaptkit(*job)
        assert done.exit_code == 0, f"{shlex.join(job)}\n{done.stderr}"
    assert [job[0] for job in jobs] == ["base", "train", "decode", "decode", "decode", "score", "score"]
    assert (clone / "exp/residual/decode_test/score.json").is_file()
