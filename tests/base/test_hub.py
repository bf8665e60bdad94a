"""Models by their tag: from a cache laid out as huggingface_hub does, or from a server on this machine."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote

import pytest

from adaptkit.base import checkpoint, hub, importing
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
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
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


class FakeHub(BaseHTTPRequestHandler):
    """The requests of `snapshot_download`: the list of a model's files, and each file with its metadata."""

    root: Path

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.answer()

    def answer(self):
        path = self.path.partition("?")[0]
        if path.startswith("/api/models/"):
            files = {str(p.relative_to(self.root)): p for p in self.root.rglob("*") if p.is_file()}
            listed = {"id": TAG, "sha": COMMIT, "siblings": [{"rfilename": name} for name in files]}
            sizes = {name: file.stat().st_size for name, file in files.items()}
            tree = [{"type": "file", "path": n, "size": size, "oid": COMMIT} for n, size in sizes.items()]
            content = tree if "/tree/" in path else listed
            return self.send(200, json.dumps(content).encode(), "application/json")
        file = self.root / unquote(path.partition(f"/resolve/{COMMIT}/")[2])
        if not file.is_file():
            return self.send(404, b"", "text/plain")
        return self.send(200, file.read_bytes(), "application/octet-stream")

    def send(self, status, content, kind):
        self.send_response(status)
        headers = {"Content-Type": kind, "Content-Length": len(content), "X-Repo-Commit": COMMIT}
        etag = hashlib.sha256(content).hexdigest()[:40]
        for name, value in {**headers, "ETag": f'"{etag}"', "Accept-Ranges": "none"}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.mark.parametrize("is_imported", [False, True])
@pytest.mark.slow
def test_download_fetches_what_the_model_needs_though_nothing_else_may(
    new_archive, forking, tmp_path, is_imported
):
    root = tmp_path / "hub"
    if is_imported:
        importing.import_model(str(new_archive(NAME)), tmp_path / "made")
        shutil.move(tmp_path / "made", root)  # so that no file is found by its absolute path
    else:
        shutil.copytree(new_archive(NAME), root, symlinks=False)
    (root / "large.bin").write_bytes(b"not needed")
    handler = type("Handler", (FakeHub,), {"root": root})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        place = {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(tmp_path / "cache")}
        given = {**forking, **place, "HF_HUB_DISABLE_XET": "1"}

        def run(*more, **variables):
            command = ["adaptkit", "base", "import", TAG, "--out", str(tmp_path / "base"), *more]
            return subprocess.run(command, env={**given, **variables}, capture_output=True, text=True)

        refused, offline = run(), run("--download", HF_HUB_OFFLINE="1")
        done = run("--download")
        server.shutdown()

    assert (refused.returncode, offline.returncode, done.returncode) == (1, 1, 0), done.stderr
    assert "--download fetches it" in refused.stderr
    assert checkpoint.load(tmp_path / "base").fingerprint == checkpoint.load(root).fingerprint
    assert json.loads((tmp_path / "base/import.json").read_text())["revision"] == COMMIT
    assert not list((tmp_path / "cache").rglob("large.bin"))
