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

from adaptkit.adapters.site import SITE_KINDS
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


def test_recordings_with_a_table_become_sets_for_a_released_model(
    adaptkit, new_archive, tmp_path, monkeypatch
):
    page = (ROOT / "docs/released.md").read_text().split("## Your recordings")[1]
    commands = re.search(r"```\n(.*?)```", page, flags=re.DOTALL)[1].splitlines()
    monkeypatch.chdir(tmp_path)
    Path("base").symlink_to(new_archive("librispeech_conformer"))
    Path("recordings").mkdir()
    rows = ["filename;sentence;speaker"]
    for number in range(16):
        soundfile.write(f"recordings/{number}.wav", 0.1 * np.sin(np.arange(33075) / 9), 44100)
        rows.append(
            f"{number}.wav;{'The model, two.' if number else 'Two 2.'};{'Ann' if number < 8 else 'Bob B'}"
        )
    Path("recordings/own.csv").write_text("\ufeff" + "\r\n".join(rows))

    done = [adaptkit(*command.split()[1:]) for command in commands]

    assert [one.exit_code for one in done] == [0, 0, 0, 0], [one.stderr for one in done]
    assert "dropped Ann-0: " in done[1].stdout
    sets = [datadir.read(Path("data", name)) for name in ("train", "valid", "test")]
    assert {text for data in sets for text in data.utterances.texts} == {"THE MODEL TWO"}
    assert [set(data.utterances.speakers) for data in sets] == [{"Ann", "Bob_B"}] * 3


def test_every_kind_of_site_is_on_the_page_for_adapter_types():
    page = (ROOT / "docs/add_adapter.md").read_text()
    section = page.split("These are the kinds of site")[1].split("\n## ")[0]

    assert [kind for kind in SITE_KINDS if f"`{kind}`" not in section] == []
