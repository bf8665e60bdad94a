"""Folders of Submodels on the tiny recogniser, and what goes in and out of them."""

import pytest

from adaptkit.model import checkpoint
from adaptkit.submodels import export as folders


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
