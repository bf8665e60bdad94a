"""egs/an4/local/prepare.py on a small tree like AN4's, and on the real one where it is."""

import os
import runpy
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile

from adaptkit import config, experiment
from adaptkit.base import create
from adaptkit.errors import DataError
from adaptkit.kaldi import datadir
from adaptkit.kaldi.audio import read_audio
from adaptkit.kaldi.validate import find_problems

ROOT = Path(__file__).parents[2]
REAL = Path(os.environ.get("ADAPTKIT_DATA", ROOT.parent / "shared" / "data")) / "an4"
SETS = ("train", "valid", "test")
CONFIG = ROOT / "egs" / "an4" / "conf" / "lm.yaml"
FILES = {
    "train": {"an4_clstk/fash/an251-fash-b": "<s> YES </s>", "an4_clstk/mmaf/cen1-mmaf-b": "<s> m a </s>"},
    "test": {"an4test_clstk/fcaw/an406-fcaw-b": "RUBOUT G THREE"},
}
prepare = runpy.run_path(str(ROOT / "egs" / "an4" / "local" / "prepare.py"))["main"]
train_lm = runpy.run_path(str(ROOT / "recipes" / "train_lm.py"))["main"]


def write_corpus(path, files):
    """Half a second of a quiet tone for each utterance, as big-endian raw files below wav/."""
    quiet = (1000 * np.sin(np.arange(8000) / 9)).astype(">i2")
    for name, texts in files.items():
        etc = path / "etc" / f"an4_{name}"
        etc.parent.mkdir(parents=True, exist_ok=True)
        etc.with_suffix(".fileids").write_text("".join(f"{file_id}\n" for file_id in texts))
        lines = (f"{text} ({Path(file_id).name})\n" for file_id, text in texts.items())
        etc.with_suffix(".transcription").write_text("".join(lines))
        for file_id in texts:
            audio = path / "wav" / f"{file_id}.raw"
            audio.parent.mkdir(parents=True, exist_ok=True)
            quiet.tofile(audio)
    return path


@pytest.fixture
def corpus(tmp_path):
    """Three speakers, one of them (mmaf) of valid_speakers.txt."""
    return write_corpus(tmp_path / "an4", FILES)


@pytest.fixture(scope="module")
def noisy(tmp_path_factory):
    """Everything that is made with --noise of five utterances of each of the three speakers."""
    path = tmp_path_factory.mktemp("noisy")
    files = {
        name: {
            f"{file_id}{number}": f"{text} {number}" for file_id, text in texts.items() for number in "12345"
        }
        for name, texts in FILES.items()
    }
    for number, kind in enumerate(("rain", "chainsaw")):
        (path / "noise" / kind).mkdir(parents=True)
        noise = 0.1 * np.random.default_rng(number).standard_normal(16000)
        soundfile.write(path / "noise" / kind / "1.flac", noise, 16000)
    prepare(write_corpus(path / "an4", files), path / "data", path / "noise")
    return path


def read_sets(data):
    return {name: datadir.read(data / name) for name in SETS}


def test_the_speakers_of_the_list_leave_training_for_validation(corpus, tmp_path):
    prepare(corpus, tmp_path / "data")
    speakers = {
        name: {u.speaker for u in made.utterances} for name, made in read_sets(tmp_path / "data").items()
    }
    assert speakers == {"train": {"fash"}, "valid": {"mmaf"}, "test": {"fcaw"}}


def test_marks_leave_the_text_which_is_upper_case(corpus, tmp_path):
    prepare(corpus, tmp_path / "data")
    texts = [made.utterances[0].text for made in read_sets(tmp_path / "data").values()]
    assert texts == ["YES", "M A", "RUBOUT G THREE"]


def test_the_speaker_is_the_prefix_of_the_utterance(corpus, tmp_path):
    prepare(corpus, tmp_path / "data")
    assert [u.utt_id for u in datadir.read(tmp_path / "data" / "test").utterances] == ["fcaw-an406-fcaw-b"]


def test_big_endian_raw_files_below_wav_are_read_the_right_way(corpus, tmp_path):
    prepare(corpus, tmp_path / "data")
    location = datadir.read(tmp_path / "data" / "train").recordings["fash-an251-fash-b"]
    expected = (1000 * np.sin(np.arange(8000) / 9)).astype(int) / 32768
    np.testing.assert_array_equal(read_audio(location, rate_hz=16000), expected.astype(np.float32))


def test_a_folder_without_the_lists_is_refused_with_what_was_expected(tmp_path):
    with pytest.raises(
        DataError, match=r"an4_train\.fileids: no such file; CORPUS should be the folder of AN4"
    ):
        prepare(tmp_path, tmp_path / "data")


def test_utterances_without_audio_are_named_and_nothing_is_written(corpus, tmp_path):
    (corpus / "wav" / "an4_clstk" / "fash" / "an251-fash-b.raw").unlink()
    with pytest.raises(DataError, match="no audio .* for 1 utterance: an4_clstk/fash/an251-fash-b"):
        prepare(corpus, tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_utterances_without_a_transcription_are_named(corpus, tmp_path):
    (corpus / "etc" / "an4_test.transcription").write_text("YES (another)\n")
    with pytest.raises(DataError, match="no transcription for 1 utterance: an4test_clstk/fcaw/an406-fcaw-b"):
        prepare(corpus, tmp_path / "data")


def spoken(data, name):
    return [u.text for u in datadir.read(data / name).utterances]


def times(data):
    """When each file of audio was written."""
    return {file: file.stat().st_mtime_ns for file in data.rglob("audio/*")}


def test_noise_makes_the_sets_of_the_noise_experiments(noisy):
    ratios = [f"{name}_{snr_db}db" for name in ("test", "test_long") for snr_db in (20, 10, 5, 0)]
    made = {path.name for path in (noisy / "data").iterdir()}
    sets = {*SETS, *ratios, "test_long", "train_lengths", "valid_lengths"}
    assert made == sets | {"noise_train", "noise_test"}
    assert [problem for name in sets for problem in find_problems(noisy / "data" / name)] == []


def test_without_noise_there_are_the_three_sets_alone(corpus, tmp_path):
    prepare(corpus, tmp_path / "data")
    assert {path.name for path in (tmp_path / "data").iterdir()} == set(SETS)


def test_every_other_utterance_of_a_speaker_is_joined_for_training(noisy):
    for name, text in (("train", "YES"), ("valid", "M A")):
        joined = f"{text} 2 {text} 4"
        assert spoken(noisy / "data", f"{name}_lengths") == [
            f"{text} 1", joined, f"{text} 3", f"{text} 5"
        ]  # fmt: skip


def test_the_long_test_set_is_the_test_set_joined(noisy):
    for name in ("test_long", "test_long_0db"):
        assert spoken(noisy / "data", name) == [" ".join(spoken(noisy / "data", "test"))]


def test_preparing_again_touches_no_audio(noisy):
    before = times(noisy / "data")
    prepare(noisy / "an4", noisy / "data", noisy / "noise")
    assert times(noisy / "data") == before
    assert len(before) == 2 * 1 + 1 + 4 * (5 + 1)  # joined for training, test_long, and the noisy ones


@pytest.mark.corpora
@pytest.mark.skipif(not REAL.is_dir(), reason="no AN4 below ADAPTKIT_DATA or ../shared/data")
def test_the_real_corpus_has_its_official_sizes(tmp_path):
    prepare(REAL, tmp_path / "data")
    made = read_sets(tmp_path / "data").values()
    assert [len(data.utterances) for data in made] == [895, 53, 130]  # 948 train, 53 of them for validation
    assert [len(data.tasks) for data in made] == [70, 4, 10]


def test_the_hybrid_model_reads_speech_and_has_both_losses():
    settings = experiment.load_base(ROOT / "egs/an4/conf/hybrid.yaml")
    base = create.untrained(config.find_published("base", settings.base.model), 100)
    assert (base.features, base.rate_hz) == (None, 16000)
    assert base.model.decoder is not None
    assert 0 < base.model.ctc_weight < 1


@pytest.fixture
def language_model(corpus, new_archive, tmp_path, monkeypatch):
    """Arguments of a finished training, with a stand-in for what ESPnet writes."""
    prepare(corpus, tmp_path / "data")
    words = (
        new_archive("librispeech_conformer"),
        tmp_path / "data/train",
        tmp_path / "data/valid",
        tmp_path / "lm",
    )

    def train(command, **_):
        (tmp_path / "lm/config.yaml").touch()
        (tmp_path / "lm/valid.loss.ave.pth").touch()
        return subprocess.CompletedProcess(command, 0)

    with monkeypatch.context() as patched:
        patched.setattr(subprocess, "run", train)
        train_lm(*words, CONFIG)
    return words


def test_a_finished_language_model_is_kept(language_model):
    out = language_model[-1]
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    train_lm(*language_model, CONFIG)
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == before


def test_a_language_model_of_other_texts_is_refused(language_model):
    text = language_model[1] / "text"
    text.write_text(text.read_text().replace("YES", "NO"))
    with pytest.raises(DataError, match=f"present {text}; put these back, or remove the folder"):
        train_lm(*language_model, CONFIG)


def test_a_language_model_of_an_unknown_training_is_refused(language_model):
    (language_model[-1] / "made_of.json").unlink()
    with pytest.raises(DataError, match="without made_of.json, .* remove the folder"):
        train_lm(*language_model, CONFIG)
