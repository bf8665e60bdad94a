"""What the tests of decoding share: the Submodels of trained adapters."""

import pytest

from adaptkit.model import checkpoint
from adaptkit.submodels import export as folders


@pytest.fixture
def export(base, tmp_path):
    """Write an experiment's file and its Submodels; give their folder."""

    def run(stack):
        path = tmp_path / "exp/tiny/adapter.safetensors"
        checkpoint.save(path, stack, base.fingerprint, 7, stack.state_dict())
        folders.export(path, base, tmp_path / "submodels")
        return tmp_path / "submodels"

    return run
