"""The documentation: it builds without a network, its links lead somewhere, and its pages fetch nothing."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from adaptkit.experiment_keys import list_section

ROOT = Path(__file__).parents[1]
FETCHED = re.compile(
    r"""<(?:script|img|iframe|source|audio|video)\b[^>]*\bsrc=["']?([^"'\s>]+)"""
    r"""|<link\b(?=[^>]*\brel=["']?(?:stylesheet|preload|preconnect|icon))[^>]*\bhref=["']?([^"'\s>]+)"""
    r"""|url\(["']?([^"')]+)|@import ["']([^"']+)"""
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site; a link to nothing, or a page in no menu, would fail the build."""
    pytest.importorskip("mkdocs", reason="the documentation needs the extra 'docs'")
    folder = tmp_path_factory.mktemp("site")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_pages_fetch_nothing_from_other_hosts(site):
    fetched = {
        name
        for path in (*site.rglob("*.html"), *site.rglob("*.css"), *site.rglob("*.svg"))
        for found in FETCHED.finditer(path.read_text())
        for name in filter(None, found.groups())
    }
    assert any(name.endswith(".css") for name in fetched)
    assert [name for name in fetched if re.match(r"(https?:)?//", name)] == []


def test_every_command_and_setting_has_its_place(site, commands):
    shown = (site / "reference/commands/index.html").read_text()
    assert [words for words in commands if f">adaptkit {words}<" not in shown] == []
    shown = (site / "reference/settings/index.html").read_text()
    assert [key.name for key in list_section("all") if f"<code>{key.name}</code>" not in shown] == []
