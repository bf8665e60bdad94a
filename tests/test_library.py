"""What `import adaptkit` offers."""

import configparser
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import adaptkit
from adaptkit import config
from adaptkit.base import checkpoint
from adaptkit.kaldi import datadir, subset
from tests.fixtures.models import SPEAKERS

VOICES = dict(zip(SPEAKERS, ("child", "croak", "whisper"), strict=True))
ROOT = Path(__file__).parents[1]


@pytest.fixture
def in_mini(base_dir, corpus, tmp_path, monkeypatch):
    """The current folder: what the page finds in egs/mini, with a tiny base model and corpus."""
    monkeypatch.chdir(tmp_path)
    Path("exp").mkdir()
    Path("exp/base").symlink_to(base_dir)
    for name, source in {"train": "train", "valid": "valid", "test": "valid"}.items():
        whole = datadir.read(corpus / "dump" / source)
        named = [replace(u, speaker=VOICES[u.speaker], task=VOICES[u.speaker]) for u in whole.utterances]
        made = replace(whole, path=Path(f"dump/adapt_{name}"), utterances=tuple(named))
        subset.save(made, [whole])


def blocks(page):
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), flags=re.DOTALL)


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


def test_the_citation_is_of_this_version():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    assert config.read_yaml(ROOT / "CITATION.cff")["version"] == setup["metadata"]["version"]


def test_every_public_name_is_there():
    assert set(adaptkit.__all__) <= set(dir(adaptkit))
    assert all(callable(getattr(adaptkit, name)) for name in adaptkit.__all__)


@pytest.mark.slow
def test_the_page_on_python_runs_from_top_to_bottom(in_mini, capsys):
    names = {}
    for block in blocks("docs/python.md"):
        exec(block, names)

    printed = capsys.readouterr().out
    assert "2 utterances to test on" in printed
    assert "child: WER" in printed
    assert "('child', 'whisper')" in printed
    assert "did you mean 'bottleneck'?" in printed


@pytest.mark.slow
def test_the_lines_of_the_readme_adapt_transcribe_and_enroll(in_mini, capsys):
    data = datadir.read(Path("dump/adapt_valid"))
    Path("recording.wav").write_bytes(Path(next(iter(data.recordings.values()))).read_bytes())
    anna = [replace(u, speaker="anna", task="anna") for u in data.utterances]
    subset.save(replace(data, path=Path("dump/anna"), utterances=tuple(anna)), [data])
    (block,) = blocks("README.md")
    names = {}
    exec(block, names)

    assert names["transcript"].submodel == "child"
    assert adaptkit.load_experiment(names["exp"]).adapters.tasks[-1] == "anna"
    assert f"{names['transcript'].score}\n" in capsys.readouterr().out


def test_adapters_without_validation_are_refused_as_by_the_command(in_mini):
    with pytest.raises(adaptkit.AdaptkitError, match=r"data\.valid is missing; .* train\.folds"):
        adaptkit.adapt("exp/base", "dump/adapt_train", "exp/child")
