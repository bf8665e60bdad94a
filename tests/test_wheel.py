"""A wheel of adaptkit, installed outside of the repository: what it holds, and a recipe that runs from it."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = ("adaptkit", "conf", "egs", "recipes", "setup.cfg", "pyproject.toml", "README.md", "LICENSE")
MADE = shutil.ignore_patterns("__pycache__", "data", "dump", "exp", "downloads")
OF_RUNS = {"data", "dump", "exp", "downloads", "__pycache__", "recipes"}  # in a corpus's folder

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel that is built in a copy, where no earlier build has left anything."""
    copy, out = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("dist")
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, symlinks=True, ignore=MADE if name == "egs" else None)
        else:
            shutil.copy(source, copy / name)
    (copy / "egs/mini/data").mkdir()
    (copy / "egs/mini/data/left.txt").write_text("what a run made\n")
    pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", out, copy]
    done = subprocess.run(pip, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A folder with the wheel's packages, and the environment in which they come before all others."""
    folder = tmp_path_factory.mktemp("installed")
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--no-deps",
        "--no-compile",
        "-q",
        "--target",
        folder,
        wheel,
    ]
    subprocess.run(pip, capture_output=True, check=True)
    path = f"{folder / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    return folder, {**os.environ, "PATH": path, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}


def run(words, folder, environment):
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_wheel_holds_the_files_of_the_repository_and_nothing_that_runs_made(wheel):
    shipped = {name.removeprefix("adaptkit/") for name in zipfile.ZipFile(wheel).namelist()}

    for folder in ("conf", "egs", "recipes"):
        files = {path.relative_to(ROOT) for path in (ROOT / folder).rglob("*") if path.is_file()}
        tracked = {
            str(path)
            for path in files
            if path.suffix in (".sh", ".yaml", ".txt", ".py") and not OF_RUNS & set(path.parts[1:])
        }
        assert {name for name in shipped if name.startswith(f"{folder}/")} == tracked
    assert {"py.typed", "adapters/catalog.json", "report/templates/report.css"} <= shipped
    page = {path.name for path in (ROOT / "adaptkit/serve/static").iterdir()}
    assert {f"serve/static/{name}" for name in page} <= shipped


def test_every_module_of_the_package_is_in_the_wheel(wheel):
    shipped = {name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".py")}
    links = {"conf", "egs", "recipes"}
    files = (path.relative_to(ROOT) for path in (ROOT / "adaptkit").rglob("*.py"))
    assert {str(path) for path in files if path.parts[1] not in links} <= shipped


def test_an_installed_wheel_answers_with_its_own_version_and_modules(installed, tmp_path):
    folder, environment = installed
    program = "import adaptkit.cli.main; print(adaptkit.__version__, adaptkit.__file__)"
    assert run(["adaptkit", "--version"], tmp_path, environment) == "adaptkit 0.2.0\n"
    assert run([sys.executable, "-c", program], tmp_path, environment).split() == [
        "0.2.0",
        str(folder / "adaptkit/__init__.py"),
    ]


def test_a_laid_out_recipe_runs_from_the_wheel(installed, tmp_path):
    folder, environment = installed
    assert "Usage" in run([sys.executable, "-m", "adaptkit", "--help"], tmp_path, environment)
    run(["adaptkit", "init", "my recipe"], tmp_path, environment)
    few = ["--prepare-options", "--per-speaker 1", "--sets", "adapt_test", "--stop-stage", "3"]

    run(["./run.sh", *few], tmp_path / "my recipe", environment)

    assert len((tmp_path / "my recipe/dump/adapt_test/feats.scp").read_text().splitlines()) == 6
    assert not list(folder.glob("adaptkit/egs/*/data"))
