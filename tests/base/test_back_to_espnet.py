"""Folded models in ESPnet's own inference, from another working folder: the same hypotheses."""

import contextlib
import io
import runpy
from pathlib import Path

import numpy as np
import pytest
import soundfile

from adaptkit.base import checkpoint
from adaptkit.base.fold import fold, write
from adaptkit.base.importing import import_model
from adaptkit.config import read_yaml
from adaptkit.kaldi import datadir
from adaptkit.kaldi.datadir import DataDir, Utterance
from adaptkit.kaldi.tables import read_table

ROOT = Path(__file__).parents[2]
TRAIN_LM = runpy.run_path(str(ROOT / "egs/an4/local/train_lm.py"))
SEARCH = {"beam_size": 3, "ctc_weight": 0.3, "maxlenratio": 0.5}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    """A data directory with three utterances of noise and tones, 0.7 to 1.3 s at 16 kHz."""
    folder, generator = tmp_path_factory.mktemp("speech"), np.random.default_rng(0)
    utterances, recordings = [], {}
    for number, sec in enumerate((0.7, 1.0, 1.3)):
        utt_id = f"spk1-{number}"
        times = np.arange(round(16000 * sec)) / 16000
        audio = 0.3 * np.sin(2000 * (number + 1) * times) + 0.05 * generator.normal(size=len(times))
        recordings[utt_id] = str(folder / f"{utt_id}.wav")
        soundfile.write(recordings[utt_id], audio, 16000)
        utterances.append(Utterance(utt_id, "spk1", utt_id, "AN OLD MODEL"))
    datadir.write(DataDir(folder / "data", tuple(utterances), recordings))
    return folder / "data"


@pytest.fixture(scope="module")
def imported(new_archive, tmp_path_factory):
    """The folder of an imported archive with a language model."""
    out = tmp_path_factory.mktemp("imported") / "base"
    import_model(str(new_archive("librispeech_conformer")), out)
    return out


@pytest.fixture
def folded(imported, new_stack, tmp_path, monkeypatch):
    """The folder of the imported model with adapters folded in, written by a relative path."""
    base = checkpoint.load(imported)
    adapters = new_stack(base, "lora", is_trained=True, rank=3)
    monkeypatch.chdir(tmp_path)
    write(fold(base, adapters, "spk1"), Path("folded"))
    return tmp_path / "folded"


def speech_to_text(folder, **options):
    """ESPnet's inference of an archive, as its meta.yaml names the files."""
    from espnet2.bin.asr_inference import Speech2Text

    meta = read_yaml(folder / "meta.yaml")
    files = {name: str(folder / file) for name, file in (meta["files"] | meta["yaml_files"]).items()}
    with contextlib.redirect_stdout(io.StringIO()):
        return Speech2Text(**files, **options)


def test_a_folded_release_gives_espnet_the_hypotheses_of_adaptkit(
    folded, imported, speech, adaptkit, tmp_path_factory, monkeypatch
):
    changes = [word for name, value in SEARCH.items() for word in ("--search-set", f"{name}={value}")]
    for folder in (folded, imported):
        words = ("decode", folder, speech, "--out", f"{folder}_decoded", "--search", "beam", *changes)
        done = adaptkit(*map(str, words), "--search-set", "lm_weight=0.4")
        assert done.exit_code == 0, done.stderr
    ours, before = (read_table(Path(f"{folder}_decoded/text")) for folder in (folded, imported))

    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    espnet = speech_to_text(folded, **SEARCH, lm_weight=0.4)
    theirs = {u: espnet(soundfile.read(file)[0])[0][0] for u, file in read_table(speech / "wav.scp").items()}

    assert ours == theirs
    assert ours != before
    assert all(ours.values())


def test_a_language_model_trained_by_espnet_joins_the_beam(imported, speech, adaptkit, tmp_path):
    from espnet2.tasks.lm import LMTask

    words = TRAIN_LM["prepare"](imported, speech, speech, tmp_path / "lm")
    sizes = ("embed_unit=16", "att_unit=16", "head=2", "unit=16", "layer=1")
    small = [word for size in sizes for word in ("--lm_conf", size)]
    quick = ["--max_epoch", "1", "--use_tensorboard", "false", "--use_matplotlib", "false"]
    LMTask.main(cmd=[*words, *small, *quick, "--config", str(ROOT / "egs/an4/conf/lm.yaml")])

    places = [imported, speech, "--out", tmp_path / "decoded", "--lm", tmp_path / "lm"]
    search = ["--search", "beam", "--search-set", "lm_weight=0.5", "--search-set", "maxlenratio=0.3"]
    done = adaptkit("decode", *map(str, places), *search)
    assert done.exit_code == 0, done.stderr
    assert len(read_table(tmp_path / "decoded/text")) == 3
