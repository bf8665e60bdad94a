"""What `import adaptkit` offers."""

import subprocess
import sys

import pytest

import adaptkit
from adaptkit.base import checkpoint


def test_an_archive_is_loaded(new_archive):
    archive = new_archive("wsj_conformer")

    assert adaptkit.load_base(archive).fingerprint == checkpoint.load(archive).fingerprint


def test_an_unknown_name_is_no_attribute():
    with pytest.raises(AttributeError, match="no attribute 'load_bas'"):
        _ = adaptkit.load_bas


def test_the_import_itself_loads_neither_torch_nor_espnet():
    script = "import adaptkit, sys; print({'torch', 'espnet2'} & set(sys.modules), adaptkit.__version__)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert done.stdout.split() == ["set()", adaptkit.__version__]
