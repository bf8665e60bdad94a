"""What a result depends on: versions, commits and memory."""

import shutil
import subprocess
from pathlib import Path

import torch

from adaptkit import provenance
from adaptkit.provenance import collect_versions, find_recipe_commit, find_toolkit_commit, peak_memory_mb


def git(folder, *words):
    who = ("-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false")
    command = ["git", *who, *words]
    done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_versions_name_what_a_result_depends_on():
    versions = collect_versions()
    assert list(versions) == ["python", "torch", "torchaudio", "espnet", "adaptkit"]
    assert versions["torch"] == torch.__version__.partition("+")[0]


def test_commit_is_none_outside_git(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert find_recipe_commit() is None


def test_commit_is_marked_while_tracked_files_differ(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("1")
    git(tmp_path, "init")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "-m", "first")
    clean = find_recipe_commit()
    (tmp_path / "file").write_text("2")
    assert len(clean) == 40
    assert find_recipe_commit() == f"{clean}+dirty"


def test_the_commit_of_adaptkit_is_not_that_of_the_repository_it_is_installed_in(tmp_path, monkeypatch):
    package = tmp_path / "venv/adaptkit"
    shutil.copytree(
        Path(provenance.__file__).parent, package, ignore=shutil.ignore_patterns("conf", "recipes", "egs")
    )
    (tmp_path / "file").write_text("1")
    git(tmp_path, "init")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "-m", "a stranger's")
    monkeypatch.setattr(provenance, "__file__", str(package / "provenance.py"))
    assert find_toolkit_commit() is None


def test_peak_memory_is_that_of_this_process():
    before = peak_memory_mb()
    block = b"1" * (64 << 20)
    assert before > 10
    assert peak_memory_mb() >= len(block) / 2**20
