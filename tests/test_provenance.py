"""What a result depends on: versions, commits and memory."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
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


@pytest.fixture
def hostile(tmp_path, monkeypatch):
    """A repository as the working folder whose settings and attributes name a program wherever they can."""
    repository, program, ran = tmp_path / "repository", tmp_path / "program.sh", tmp_path / "ran"
    repository.mkdir()
    program.write_text(f"#!/bin/sh\necho $0 $* >> {ran}\ncat\n")
    program.chmod(0o755)
    (repository / "file").write_text("1")
    (repository / "other").write_text("1")
    git(repository, "init")
    git(repository, "add", "file", "other")
    git(repository, "commit", "-m", "first")
    (repository / ".gitattributes").write_text("file filter=a diff=a\nother filter=b.c=d merge=a\n")
    for hook in ("post-index-change", "post-checkout", "pre-commit"):
        shutil.copy(program, repository / ".git/hooks" / hook)
    settings = f"""
        [core]
            fsmonitor = {program}
            sshCommand = {program}
            pager = {program}
            editor = {program}
            askPass = {program}
            gitProxy = {program}
            hooksPath = {repository}/.git/hooks
            alternateRefsCommand = {program}
        [diff]
            external = {program}
        [diff "a"]
            command = {program}
            textconv = {program}
        [filter "a"]
            process = {program}
            clean = {program}
            smudge = {program}
            required = true
        [merge "a"]
            driver = {program}
        [alias]
            status = !{program}
            rev-parse = !{program}
        [pager]
            status = {program}
        [credential]
            helper = !{program}
        [gpg]
            program = {program}
        [extensions]
            partialClone = origin
        [remote "origin"]
            url = {tmp_path}/nowhere
            promisor = true
            uploadpack = {program}
        [protocol "ext"]
            allow = always
        [include]
            path = {tmp_path}/more
    """
    (tmp_path / "more").write_text(f'[filter "b.c=d"]\nclean = {program}\n')
    with open(repository / ".git/config", "a") as file:
        file.write(settings)
    (repository / "file").write_text("2")  # so that status compares the content of both files
    (repository / "other").touch()
    monkeypatch.chdir(repository)
    return ran


def test_no_program_that_a_repository_names_is_run(hostile):
    assert find_recipe_commit().endswith("+dirty")
    assert not hostile.exists(), hostile.read_text()


def test_no_missing_object_is_fetched_from_where_a_repository_says(hostile):
    for path in Path(".git/objects").glob("??/*"):
        path.unlink()
    find_recipe_commit()
    assert not hostile.exists(), hostile.read_text()


def test_settings_of_git_that_wait_for_a_writer_are_given_up(hostile, tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "_MOST_SEC", 0.2)
    (tmp_path / "more").unlink()
    os.mkfifo(tmp_path / "more")
    assert find_recipe_commit() is None


def test_settings_in_the_environment_are_kept(hostile, monkeypatch):
    for name, value in {"COUNT": "1", "KEY_0": "core.fsmonitor", "VALUE_0": "true"}.items():
        monkeypatch.setenv(f"GIT_CONFIG_{name}", value)
    assert find_recipe_commit().endswith("+dirty")


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
