"""Create a recipe folder for `adaptkit init`: a corpus of egs/ with the recipes that its run.sh calls."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from adaptkit import locks
from adaptkit.errors import DataError, listed, nearest
from adaptkit.files import read_text, write_text

_PACKAGE = Path(__file__).parents[1]
# The files of a corpus that git tracks; in a clone, the others are output of its recipe.
_OF_CORPUS = ("*.sh", "local/*.py", "local/*.txt", "lists/*.txt", "conf/*.yaml")


def names() -> list[str]:
    """List the available corpora, sorted."""
    return sorted(script.parent.name for script in (_PACKAGE / "egs").glob("*/run.sh"))


def lay_out(folder: Path, corpus: str) -> None:
    """Write the recipe folder of a corpus, in which run.sh works without a clone of adaptkit.

    The folder must be new or empty, or hold only some of the same files, as a killed run leaves them. Scripts
    are made executable, since a wheel may lose that.
    """
    if corpus not in names():
        raise DataError(
            f"{corpus}: no such corpus{nearest(corpus, names()) or f'; known: {listed(names())}'}"
        )
    files = {folder / relative: read_text(source) for source, relative in _find_files(corpus)}
    _refuse_used(folder, files)
    with locks.hold(folder, parts=tuple({str(path.parent.relative_to(folder)) for path in files})):
        for path, text in files.items():
            write_text(path, text)
            if path.suffix == ".sh":
                path.chmod(path.stat().st_mode | 0o111)


def _refuse_used(folder: Path, files: Mapping[Path, str]) -> None:
    """Refuse a folder with anything but some of the files, which a killed run leaves."""
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder}: is a file; choose a new folder")
    present = sorted(path for path in folder.rglob("*") if not path.is_dir() and not _is_hidden(path))
    held = [
        str(path.relative_to(folder))
        for path in present
        if path not in files or read_text(path) != files[path]
    ]
    if held:
        raise DataError(f"{folder}: not empty, contains {listed(held, 3)}; choose a new folder")


def _is_hidden(path: Path) -> bool:
    """Whether a file is the lock or a partial file of a killed run."""
    return path.name == locks.FILE or ".partial" in path.name


def _find_files(corpus: str) -> Iterator[tuple[Path, Path]]:
    """Yield each file, and its path in the recipe folder."""
    own, recipes = _PACKAGE / "egs" / corpus, _PACKAGE / "recipes"
    for pattern in _OF_CORPUS:
        yield from ((path, path.relative_to(own)) for path in own.glob(pattern))
    yield from ((path, Path("recipes", path.name)) for path in recipes.glob("*.sh"))
