"""Folders of Submodels on the tiny recogniser, and what goes in and out of them."""

import pytest
import torch

from adaptkit import experiment
from adaptkit.adapters import api
from adaptkit.model import checkpoint
from adaptkit.submodels import export as folders

SPEAKERS = ("spk1", "spk10", "spk2")


@pytest.fixture
def new_exp(base, settings, tmp_path):
    """Make the folder `name` of adapters, trained as if; entries, or keywords as options of one adapter."""

    def make(name="exp", *entries, kind="residual", tasks=SPEAKERS, **options):
        configs = [api.read_config(entry) for entry in entries or [{"kind": kind, **options}]]
        stack, folder = api.build(configs, base.sites, tasks, seed=None), tmp_path / name
        generator = torch.Generator().manual_seed(1)
        for parameter in stack.parameters():
            torch.nn.init.normal_(parameter, std=0.3, generator=generator)
        made = settings().model_copy(update={"adapters": stack.configs})
        experiment.save(made, folder / "config.yaml")
        path = folder / "adapter.safetensors"
        checkpoint.save(path, stack, base.fingerprint, 7, stack.state_dict())
        return folder

    return make


@pytest.fixture
def export(base, tmp_path):
    """Export an experiment into the folder `name`."""

    def run(exp, name="submodels", **options):
        folders.export(exp / "adapter.safetensors", base, tmp_path / name, **options)
        return tmp_path / name

    return run


@pytest.fixture
def folder(new_exp, export):
    """A folder of Submodels of spk1, spk10 and spk2, which a test may spoil."""
    return export(new_exp(bottleneck=4))


@pytest.fixture
def pack(base, tmp_path):
    """Merge a folder into an experiment, and give its adapter file."""

    def run(folder, **options):
        folders.pack(folder, base, tmp_path / "merged", **options)
        return checkpoint.load(tmp_path / "merged/adapter.safetensors")

    return run
