"""Models by their tag: from a cache laid out as huggingface_hub does; never the network."""

import os
import shutil
import sys

import pytest

from adaptkit.base import hub, importing
from adaptkit.errors import AdaptkitError

TAG, COMMIT = "someone/librispeech_conformer", "0123456789abcdef0123456789abcdef01234567"
NAME = "librispeech_conformer"


@pytest.fixture
def cache(new_archive, tmp_path, monkeypatch):
    """A cache with the archive at one commit: files are links to blobs."""
    constants = pytest.importorskip("huggingface_hub.constants", reason="needs huggingface_hub")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    repository = tmp_path / "hub" / f"models--{TAG.replace('/', '--')}"
    snapshot = repository / "snapshots" / COMMIT
    shutil.copytree(new_archive(NAME), snapshot)
    (repository / "blobs").mkdir()
    for number, file in enumerate(sorted(path for path in snapshot.rglob("*") if path.is_file())):
        file.rename(repository / "blobs" / str(number))
        file.symlink_to(os.path.relpath(repository / "blobs" / str(number), file.parent))
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text(COMMIT)
    return repository


@pytest.mark.parametrize("revision", [None, "main", COMMIT])
def test_a_model_in_the_cache_is_imported_by_its_tag_with_its_commit(cache, tmp_path, revision):
    origin = importing.import_model(TAG, tmp_path / "base", revision=revision)
    assert (origin.source, origin.revision) == (TAG, COMMIT)
    assert not any(path.is_symlink() for path in (tmp_path / "base").rglob("*"))


def test_a_model_that_is_not_in_the_cache_needs_a_download(cache, adaptkit, tmp_path):
    for words in (["other/model"], [TAG, "--revision", "v2"]):
        done = adaptkit("base", "import", *words, "--out", tmp_path / "base")
        assert done.exit_code == 1
        assert "no such path, and not complete in the cache of huggingface_hub; --download" in done.stderr
    assert not (tmp_path / "base").exists()


def test_a_cache_that_lacks_the_weights_needs_a_download(cache, tmp_path):
    for path in cache.glob("snapshots/*/exp/asr_*/*.pth"):
        path.unlink()
    with pytest.raises(AdaptkitError, match="not complete in the cache .*; --download fetches it"):
        importing.import_model(TAG, tmp_path / "base")


def test_a_download_without_network_is_refused(cache, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(AdaptkitError, match="other/model: not fetched.*; check the tag"):
        importing.import_model("other/model", tmp_path / "base", download=True)
    assert not (tmp_path / "base").exists()


def test_without_the_package_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(AdaptkitError, match=r"huggingface_hub is missing: pip install 'adaptkit\[hub\]'"):
        importing.import_model("other/model", tmp_path / "base")


def test_a_path_that_exists_is_no_tag(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert hub.is_tag("exp/base")
    (tmp_path / "exp/base").mkdir(parents=True)
    assert not hub.is_tag("exp/base")
