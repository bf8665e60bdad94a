"""egs/speechocean762 on a small tree like the corpus, and the split on the real one where it is."""

import os
import runpy
from pathlib import Path

import pytest
import soundfile
import torch

from adaptkit.corpora.speechocean762 import read_corpus
from adaptkit.errors import DataError
from adaptkit.kaldi import datadir
from adaptkit.kaldi.validate import find_problems

ROOT = Path(__file__).parents[2]
LOCAL, LISTS = ROOT / "egs/speechocean762/local", ROOT / "egs/speechocean762/lists"
REAL = Path(os.environ.get("ADAPTKIT_DATA", ROOT.parent / "shared" / "data")) / "speechocean762_train"
prepare = runpy.run_path(str(LOCAL / "prepare.py"))["main"]
make_lists = runpy.run_path(str(LOCAL / "make_lists.py"))["main"]


def names(name):
    return (LISTS / f"{name}.txt").read_text().split()


@pytest.fixture
def corpus(tmp_path):
    """Every speaker of the lists, a child or an adult, with all utterances named there and one more each."""
    speakers = [speaker for name in ("base", "base_valid", "tasks", "new") for speaker in names(name)]
    ids = [tuple(utt_id.split("-")) for name in ("adapt", "valid") for utt_id in names(name)]
    ids += [(speaker, f"9{speaker}") for speaker in speakers]
    path = tmp_path / "corpus"
    tables = {
        "text": {file_id: f"Sentence of {speaker}" for speaker, file_id in ids},
        "utt2spk": {file_id: speaker for speaker, file_id in ids},
        "wav.scp": {file_id: "WAVE/one.WAV" for _, file_id in ids},
        "spk2age": {speaker: str(10 + index % 2 * 10) for index, speaker in enumerate(speakers)},
    }
    (path / "WAVE").mkdir(parents=True)
    (path / "train").mkdir()
    soundfile.write(path / "WAVE/one.WAV", 0.1 * torch.randn(19200).clamp(-3, 3).numpy(), 16000)
    for name, table in tables.items():
        (path / "train" / name).write_text(
            "".join(f"{key}\t{value}\n" for key, value in sorted(table.items()))
        )
    return path


@pytest.mark.slow
def test_sets_follow_the_lists_and_share_no_speaker_or_utterance(corpus, tmp_path):
    data = tmp_path / "data"
    prepare(corpus, data, voices=1)
    sets = {path.name: datadir.read(path) for path in data.iterdir() if (path / "wav.scp").exists()}
    speakers = {name: {u.speaker for u in made.utterances} for name, made in sets.items()}
    assert speakers["adapt_train"] == speakers["adapt_valid"] == speakers["adapt_test"] == set(names("tasks"))
    assert speakers["new_train"] == speakers["new_test"] == set(names("new"))
    assert speakers["base_valid"] == set(names("base_valid"))
    assert speakers["base_real"] == set(names("base"))
    sizes = [len(sets[name].utterances) for name in ("adapt_train", "adapt_valid", "adapt_test")]
    assert sizes == [400, 100, 50]
    ids = [u.utt_id for name in sets if "adapt" in name or "new" in name for u in sets[name].utterances]
    assert len(ids) == len(set(ids))
    assert {u.group for u in sets["adapt_test"].utterances} == {"child", "adult"}
    trained = sets["base_train"].utterances
    assert len(sets["voices_train"].utterances) == 60
    assert len(trained) == 3 * len(names("base")) + 20
    assert not {u.speaker for u in trained} & (speakers["adapt_test"] | speakers["new_test"])
    assert {"sp0.9-0005", "0005", "sp1.1-0005", "voice000"} & speakers["base_train"]
    assert not find_problems(data / "adapt_train")


def test_what_is_missing_is_named(corpus):
    (corpus / "WAVE/one.WAV").unlink()
    with pytest.raises(DataError, match="no audio of .* utterances"):
        read_corpus(corpus)
    (corpus / "train/spk2age").unlink()
    with pytest.raises(DataError, match="no spk2age; CORPUS should be"):
        read_corpus(corpus)


@pytest.mark.corpora
@pytest.mark.skipif(not REAL.exists(), reason=f"no speechocean762 at {REAL}")
def test_the_lists_are_those_of_the_corpus(tmp_path):
    make_lists(REAL, tmp_path)
    for path in tmp_path.iterdir():
        assert path.read_text() == (LISTS / path.name).read_text()
    texts = [utterance.text for utterance in read_corpus(REAL).utterances]
    assert len(set(texts)) == len(texts) == 2500
