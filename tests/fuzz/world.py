"""A tiny corpus, base model, adapters, Submodels and results, from which inputs are made by damage."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from adaptkit import experiment
from adaptkit.base import build
from adaptkit.base import checkpoint as base_checkpoint
from adaptkit.decoding.run import DecodeOptions, decode_folder
from adaptkit.experiment import Experiment
from adaptkit.folders import RunFolder
from adaptkit.scoring import files as scoring
from adaptkit.submodels import export
from adaptkit.training.run import train_adapters
from tests.fixtures.corpora import write_set
from tests.fixtures.models import CONFORMER, OPTIONS, TOKENS


@dataclass(frozen=True)
class World:
    """What is whole; inputs are made from copies of it."""

    folder: Path

    @property
    def data(self) -> Path:
        """A data directory of six utterances, without features."""
        return self.folder / "data/valid"

    @property
    def dump(self) -> Path:
        """The same with features."""
        return self.folder / "dump/valid"

    @property
    def base(self) -> Path:
        """A Conformer of 16 dimensions."""
        return self.folder / "base"

    @property
    def exp(self) -> Path:
        """Residual adapters trained on `dump`, decoded and scored."""
        return self.folder / "exp"

    @property
    def longer(self) -> Path:
        """The same trained twice as long, from the start."""
        return self.folder / "longer"

    @property
    def submodels(self) -> Path:
        """The same as Submodels."""
        return self.folder / "submodels"

    def copy(self, what: Path, name: str = "") -> Path:
        """Copy a folder to a place that the next copy reuses."""
        target = self.folder / "tried" / (name or what.name)
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(what, target, symlinks=True)
        return target


def settings(folder: Path) -> Experiment:
    """Return the experiment of the adapters."""
    sets = {"train": str(folder / "dump/valid"), "valid": str(folder / "dump/valid")}
    training = {"max_epochs": 1, "batch_frames": 500, "lr": 0.01, "warmup_steps": 2, "schedule": "constant"}
    content = {
        "name": "exp",
        "base": {"dir": str(folder / "base")},
        "data": sets,
        "adapters": [{"kind": "residual", "bottleneck": 4}],
        "train": training,
    }
    return experiment.Experiment.model_validate(content)


def make(folder: Path) -> World:
    """Make a world in a folder, unless it is there; takes a few seconds."""
    world = World(folder.resolve())
    if (world.folder / "complete").exists():
        return world
    world.folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    write_set(world.folder, 2, seed=5)
    stats = world.folder / "feats_stats.npz"
    np.savez(stats, count=10.0, sum=np.full(20, 100.0), sum_square=np.full(20, 1090.0))
    described = build.complete(
        {
            "input_size": 20,
            "encoder": "conformer",
            "encoder_conf": CONFORMER,
            "model_conf": {"ctc_weight": 1.0},
            "normalize": "global_mvn",
            "normalize_conf": {"stats_file": str(stats)},
            "token_list": list(TOKENS),
            "adaptkit": {"features": OPTIONS.to_dict()},
        }
    )
    torch.manual_seed(0)
    model = build.build(described)
    base_checkpoint.save(world.base, described, model.state_dict())
    train_adapters(settings(world.folder), world.exp, device="cpu")
    longer = experiment.setting({"train.max_epochs": 2})
    experiment.save(settings(world.folder), world.folder / "exp.yaml")
    train_adapters(experiment.load(world.folder / "exp.yaml", longer), world.longer, device="cpu")
    decoded = decode_folder(DecodeOptions(world.exp, world.dump), device="cpu")
    scoring.write(scoring.score_files(world.data, decoded), decoded)
    base = base_checkpoint.load(world.base)
    export.export(RunFolder(world.exp).adapter, base, world.submodels)
    (world.folder / "complete").write_text(json.dumps({"format": 1}))
    return world
