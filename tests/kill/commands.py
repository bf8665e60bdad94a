"""The commands that write, each with what it needs, how it goes on after a kill, and what it writes."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import yaml

from adaptkit import config
from adaptkit.experiment import Experiment
from adaptkit.features.archive import load_feats
from adaptkit.features.fbank import cmvn_stats, write_cmvn
from adaptkit.kaldi import datadir
from adaptkit.kaldi.tables import read_table, write_table
from adaptkit.tensors import read_tensors
from adaptkit.training.run import train_adapters
from adaptkit.training_options import Training
from tests.fuzz.world import World, settings

RATE = ("--rate", 8000)
YAMLS = ("train", "cached", "folds", "base", "noise")
VOLATILE = (
    "seconds",
    "_mb",
    "date",
    "command",
    "host",
    "commit",
    "time",
    "imported",
)  # of records, and of the log


@dataclass(frozen=True)
class Command:
    """A command line, the folder or file it writes, and what continues it."""

    name: str
    words: tuple[object, ...]
    out: Path
    resume: tuple[str, ...] = ()
    prepare: Callable[[], None] = lambda: None


def commands(world: World) -> list[Command]:
    """List every command that writes, in a folder of the world that they share one after the other."""
    work = world.folder / "work"
    out, data, dump = work / "out", world.data, world.dump
    cpu = ("--device", "cpu")
    training, cached, folds, base, noise = (world.folder / f"{name}.yaml" for name in YAMLS)

    def copy(what: Path, name: str) -> Callable[[], None]:
        return lambda: _replace(what, work / name)

    wavs = sorted(read_table(data / "wav.scp").values())
    enroll = ("submodels", "enroll", world.exp, "--data", world.folder / "dump/new", "--speaker", "new")
    return [
        Command("feats", ("feats", data, out, *RATE, "--num-bins", 20, "--cmvn", out / "stats.npz"), out),
        Command("augment copy", ("augment", "copy", data, out, "--policy", noise, *RATE), out),
        Command("data import", ("data", "import", world.folder / "list.csv", out), out),
        Command("data subset", ("data", "subset", data, out, "--first", 4), out),
        Command("data combine", ("data", "combine", out, data, dump), out),
        Command("data join", ("data", "join", data, out, "--max-sec", 2, *RATE), out),
        Command("data perturb", ("data", "perturb", data, out, *RATE), out),
        Command("data split", ("data", "split", data, out / "a", out / "b", "--per-spk", 1), out),
        Command(
            "data fix", ("data", "fix", work / "damaged"), work / "damaged", (), lambda: _damage(world, work)
        ),
        Command("base train", ("base", "train", base, *cpu), world.folder / "work/base", ("--resume",)),
        Command("base import", ("base", "import", world.base, "--out", out), out),
        Command("train", ("train", training, "--exp", out, *cpu), out, ("--resume",)),
        Command("train, cached", ("train", cached, "--exp", out, *cpu), out, ("--resume",)),
        Command("train, folds", ("train", folds, "--exp", out, *cpu), out, ("--resume",)),
        Command("decode", ("decode", world.exp, dump, "--out", out, *cpu), out),
        Command("transcribe", ("transcribe", *wavs, "--base", world.base, "--out", out, *cpu), out),
        Command(
            "score", ("score", data, work / "hyp"), work / "hyp", (), copy(world.exp / "decode_valid", "hyp")
        ),
        Command("submodels enroll", (*enroll, "--out", out, *cpu), out),
        Command("submodels export", ("submodels", "export", world.exp, out), out),
        Command("submodels pack", ("submodels", "pack", world.submodels, out, "--base", world.base), out),
        Command("submodels cross", ("submodels", "cross", world.exp, dump, "--out", out, *cpu), out),
        Command("adapters prune", ("adapters", "prune", world.exp, "--data", dump, "--out", out, *cpu), out),
        Command(
            "adapters fold",
            ("adapters", "fold", world.folder / "lora", "--speaker", "spk1", "--out", out),
            out,
        ),
        Command(
            "augment show", ("augment", "show", world.folder / "mask.yaml", "--data", dump, "--out", out), out
        ),
        Command("report", ("report", world.exp, "--out", out / "report.html"), out),
        Command("init", ("init", out), out),
    ]


def clear(world: World, command: Command) -> None:
    """Begin with what the command needs and nothing that it wrote."""
    shutil.rmtree(world.folder / "work", ignore_errors=True)
    (world.folder / "work").mkdir()
    command.prepare()


def snapshot(folder: Path) -> dict[str, object]:
    """Return every file of a folder, without what differs between two runs: times, memory, the command."""
    return {
        str(path.relative_to(folder)): _content(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() or path.is_symlink()
    }


def _content(path: Path) -> object:
    if path.name == "state.safetensors":
        tensors, header = read_tensors(path)
        return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}, _lasting(header)
    if path.name in ("run.json", "import.json", "train.jsonl", "copies.jsonl"):
        return [_lasting(json.loads(line)) for line in _documents(path)]
    return path.read_bytes()


def _documents(path: Path) -> list[str]:
    text = path.read_text()
    return text.splitlines() if path.suffix == ".jsonl" else [text]


def _lasting(value: object) -> object:
    if isinstance(value, dict):
        return {
            key: _lasting(each) for key, each in value.items() if not any(word in key for word in VOLATILE)
        }
    return [_lasting(each) for each in value] if isinstance(value, list) else value


def _replace(what: Path, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(what, target)


def _damage(world: World, work: Path) -> None:
    """Make a data directory with unsorted tables and an utterance too many."""
    _replace(world.data, work / "damaged")
    for name in ("text", "utt2spk", "wav.scp"):
        path = work / "damaged" / name
        lines = path.read_text().splitlines()
        path.write_text("\n".join([*reversed(lines), "zzz"]) + "\n")


def complete(world: World) -> None:
    """Add to a world what the commands need besides."""
    folder = world.folder
    content = config.dump(settings(folder))
    train = {**content["train"], "max_epochs": 6, "save_every_steps": 1, "average": 2}
    hff = {**content, "train": train, "adapters": [{"kind": "hff", "cache": True}]}
    small = {"output_size": 16, "attention_heads": 2, "linear_units": 24, "num_blocks": 2}
    model = {
        "input_size": 20,
        "encoder": "conformer",
        "encoder_conf": {**small, "rel_pos_type": "latest", "cnn_module_kernel": 7},
        "model_conf": {"ctc_weight": 1.0},
        "normalize": "global_mvn",
    }
    sets = content["data"]
    folds = {**train, "average": 1, "max_epochs": 2, "folds": 2, "lr": [1e-3, 1e-2]}
    base = {
        "dir": str(folder / "work/base"),
        "model": str(folder / "model.yaml"),
        "data": sets,
        "train": {name: train[name] for name in Training.model_fields},
    }
    files = {
        "train.yaml": {**content, "train": train},
        "cached.yaml": hff,
        "folds.yaml": {**content, "train": folds, "data": {**sets, "valid": None}},
        "base.yaml": {**content, "base": base},
        "noise.yaml": {"noise": {"noises": [str(folder / "noises")], "snr_db": [10, 10]}},
        "model.yaml": model,
        "mask.yaml": {"spec": {"freq_masks": 1, "freq_width": 5}},
    }
    for name, tree in files.items():
        (folder / name).write_text(yaml.safe_dump(tree))
    utterances = datadir.read(world.data)
    rows = [f"{utterances.recordings[u.recording]},{u.text},{u.speaker}" for u in utterances.utterances]
    (folder / "list.csv").write_text("\n".join(rows))
    arrays = map(load_feats, read_table(world.dump / "feats.scp").values())
    write_cmvn(world.dump / "feats_stats.npz", cmvn_stats(arrays))
    noise = np.random.default_rng(0).normal(0, 0.1, 16_000)
    (folder / "noises").mkdir(exist_ok=True)
    soundfile.write(folder / "noises/hiss.wav", noise, 8000)
    _replace(world.dump, folder / "dump/new")
    speakers = read_table(folder / "dump/new/utt2spk")
    write_table(folder / "dump/new/utt2task", dict.fromkeys(speakers, "new"))
    lora = config.check(Experiment, {**content, "adapters": [{"kind": "lora", "rank": 2}]}, "lora")
    train_adapters(lora, folder / "lora", device="cpu")
