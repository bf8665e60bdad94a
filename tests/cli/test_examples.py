"""The example at the end of every command's help, run in a folder like the one that it speaks of."""

import glob
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from adaptkit import config, experiment
from adaptkit.kaldi import datadir, subset
from adaptkit.training_options import Training
from tests.fixtures.models import CONFORMER

pytestmark = pytest.mark.slow
SMALL = {  # further words, so that it takes seconds
    "feats": ["--rate", 8000, "--num-bins", 40],
    "augment copy": ["--rate", 8000, "--set", "noise.noises=[noises]"],
    "base train": ["--set", "base.train.max_epochs=3"],
    "bench corpus": ["--utterances", 300],
    "bench train": ["--utterances", 2, "--sec", 1, "--steps", 1, "--speakers", 2],
    "bench augment": ["--utterances", 2, "--max-sec", 3, "--model", "conformer_6x64"],
    "bench decode": ["--no-espnet", "--max-sec", 3],
    "bench scale": ["--speakers", 2, "--model", "conf/tiny.yaml", "--batch-frames", 1000],
    "bench submodels": ["--speakers", 2, "--sec", 1, "--rounds", 1, "--loads", 3, "--resident", 10],
}
MODEL = {"input_size": 40, "encoder": "conformer", "encoder_conf": CONFORMER, "normalize": "global_mvn"}


def write_sets(corpus, folder):
    """Write sets of the tiny corpus's speakers, and one of a new speaker."""
    whole, valid = (datadir.read(corpus / "data" / name) for name in ("train", "valid"))
    for name, numbers in {"train": ("00", "01", "02", "03"), "dev": ("04", "05")}.items():
        chosen = [u.utt_id for u in whole.utterances if u.utt_id.endswith(numbers)]
        subset.save(subset.subset(whole, chosen, path=folder / "data" / name), [whole])
    subset.save(replace(valid, path=folder / "data/test"), [valid])
    own = subset.subset(valid, subset.choose_speakers(valid, ["spk2"]), path=folder / "data/anna")
    anna = tuple(replace(u, speaker="anna", task="anna") for u in own.utterances)
    subset.save(replace(own, utterances=anna), [valid])


@pytest.fixture
def folder(adaptkit, corpus, settings, tmp_path, monkeypatch):
    """The current folder: a corpus, a base model and experiments on it, as a recipe leaves them."""
    monkeypatch.chdir(tmp_path)
    write_sets(corpus, tmp_path)
    shutil.copytree(corpus, "noises", ignore=shutil.ignore_patterns("data", "dump"))
    config.write_yaml("conf/tiny.yaml", {**MODEL, "model_conf": {"ctc_weight": 1.0}})
    sets = {"train": "dump/train", "valid": "dump/test"}
    made = settings(max_epochs=1).model_dump()
    common = {name: made["train"][name] for name in Training.model_fields}
    base = {"dir": "exp/base", "model": "conf/tiny.yaml", "data": sets, "train": common}
    made = experiment.Experiment.model_validate({**made, "base": base, "data": sets})
    experiment.save(made, Path("conf/mini.yaml"))

    def run(words):
        done = adaptkit(*words.split())
        assert done.exit_code == 0, f"{words}\n{done.stderr}"

    for name in ("train", "test", "anna"):
        stats = f"dump/{name}/feats_stats.npz"
        run(f"feats data/{name} dump/{name} --rate 8000 --num-bins 40 --cmvn {stats}")
    run("base train conf/mini.yaml --set base.train.max_epochs=3")
    shutil.make_archive("asr_model", "zip", "exp/base")
    shutil.copyfile(next(corpus.glob("*.wav")), "hello.wav")
    Path("recordings/anna").mkdir(parents=True)
    shutil.copyfile("hello.wav", "recordings/anna/1.wav")
    Path("recordings/anna/1.txt").write_text("A B")
    for name in ("residual", "tpa", "lora"):
        run(f"train conf/mini.yaml --adapter {name} --exp exp/{name}")
    for seed in (1, 2):
        run(f"train conf/mini.yaml --adapter residual --exp exp/residual/{seed} --seed {seed}")
    for name in ("one_job", "jobs/spk1"):
        run(f"train conf/mini.yaml --adapter residual --exp exp/submodels/{name}")
    for exp in ("residual", "residual/1", "residual/2"):
        run(f"decode exp/{exp} dump/test")
        run(f"score data/test exp/{exp}/decode_test")
    run("decode exp/residual dump/test --base-only")
    run("score data/test exp/none/decode_test")


def test_every_example_works(commands, adaptkit, folder):
    failed = []
    for name, command in commands.items():
        words = shlex.split(command.example)[1:]
        if name in ("serve", "bench gpu"):  # does not end; run by tests/bench/test_gpu.py
            command.make_context(name, words[len(name.split()) :])
            continue
        expanded = [part for word in words for part in (glob.glob(word) if "*" in word else [word])]
        done = adaptkit(*expanded, *SMALL.get(name, []))
        if done.exit_code != 0:
            failed.append(f"{command.example}\n{done.stderr}")
    assert failed == []
