"""What the documentation tells people to write: an adapter type and a corpus, by following its pages."""

import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from adaptkit.kaldi import datadir
from adaptkit.kaldi.validate import find_problems

ROOT = Path(__file__).parents[1]
COPIED = ("adaptkit", "tests", "pyproject.toml")


def python_in(page):
    """The first block of Python in a page."""
    return re.search(r"```python\n(.*?)```", (ROOT / "docs" / page).read_text(), flags=re.DOTALL)[1]


@pytest.mark.slow
def test_an_adapter_type_of_one_file_is_listed_and_held_to_the_invariants(tmp_path):
    for name in COPIED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name, **({"symlinks": True} if copy is shutil.copytree else {}))
    for name in ("conf", "egs", "recipes"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "adaptkit/adapters/kinds/scale.py").write_text(python_in("add_adapter.md"))
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}

    def run(*words):
        words = [sys.executable, "-m", *words]
        return subprocess.run(
            words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )

    assert "K 2 L D" in run("adaptkit", "adapters", "show", "scale").stdout
    done = run("pytest", "-q", "tests/adapters/test_invariants.py", "-k", "scale and conformer")
    assert done.returncode == 0, done.stdout
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) > 10


def test_a_corpus_of_another_layout_needs_another_read_set_only(tmp_path):
    template = (ROOT / "egs/template/local/prepare.py").read_text()
    old = re.search(r"def read_set.*?(?=\n\n\ndef )", template, flags=re.DOTALL)[0]
    script = tmp_path / "prepare.py"
    script.write_text(template.replace(old, python_in("add_corpus.md").rstrip()))
    corpus = tmp_path / "corpus"
    (corpus / "audio").mkdir(parents=True)
    for name in ("anna_001", "anna_002", "anna_003"):
        soundfile.write(corpus / f"audio/{name}.flac", 0.1 * np.sin(np.arange(8000) / 9), 16000)
    for number, name in enumerate(("train", "valid", "test"), start=1):
        (corpus / f"{name}.tsv").write_text(f"anna_00{number}\tturn it off\n")

    runpy.run_path(str(script))["main"](corpus, tmp_path / "data")

    sets = [tmp_path / "data" / name for name in ("train", "valid", "test")]
    assert [find_problems(path) for path in sets] == [[], [], []]
    (one,) = datadir.read(sets[1]).utterances
    assert (one.utt_id, one.speaker, one.text) == ("anna-002", "anna", "TURN IT OFF")
