"""Read a zip of a model: the files needed are extracted to a temporary folder, which is removed afterwards.

A zip comes from others: it may hold paths that lead outside, links, two entries of one name, or few bytes
that extract to many. All of these are refused before anything is extracted.
"""

import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from adaptkit.errors import CheckpointError, listed
from adaptkit.files import explain_os_error

_SMALL = 64 << 20  # most bytes of a file other than a model: a configuration, statistics, a BPE model
_MOST_ENTRIES = 10_000
_MOST_RATIO = 100  # of extracted to stored bytes; weights shrink by a tenth, texts tenfold
_MODELS = (".pth", ".pt", ".bin", ".safetensors", ".ckpt")
_BLOCK = 1 << 20


def is_zip(path: Path) -> bool:
    """Whether a file is a zip, complete or not."""
    return path.suffix.lower() == ".zip" or zipfile.is_zipfile(path)


@contextmanager
def unpacked(path: Path) -> Iterator[tuple[Path, Callable[[Path], None]]]:
    """Yield a folder with the small files of a zip, and a function that extracts one of its models.

    Model files are empty until then. The folder is the innermost one in the zip that holds all of its files;
    it is removed after the block. A damaged or suspicious zip is a CheckpointError.
    """
    with tempfile.TemporaryDirectory(prefix="adaptkit-") as temporary:
        with _explaining(path), zipfile.ZipFile(path) as archive:
            entries = _check(archive, path)
            for name, entry in entries.items():
                target = Path(temporary, name)
                target.parent.mkdir(parents=True, exist_ok=True)
                if target.suffix in _MODELS:
                    target.touch()
                elif entry.file_size <= _SMALL:
                    _extract(archive, entry, target)

        def extract(file: Path) -> None:
            entry = entries[PurePosixPath(file.relative_to(temporary))]
            _refuse_without_space(path, entry, Path(temporary))
            with _explaining(path), zipfile.ZipFile(path) as archive:
                _extract(archive, entry, file)

        yield _enter(Path(temporary)), extract


@contextmanager
def _explaining(path: Path) -> Iterator[None]:
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise CheckpointError(f"{path}: not a complete zip: {error}; fetch or copy it again") from error
    except OSError as error:
        raise CheckpointError(explain_os_error(error, path)) from error


def _check(archive: zipfile.ZipFile, path: Path) -> Mapping[PurePosixPath, zipfile.ZipInfo]:
    """Return the files in a zip by their paths, or refuse it."""
    entries = [entry for entry in archive.infolist() if not entry.is_dir() and not _is_of_mac(entry.filename)]
    if len(entries) > _MOST_ENTRIES:
        raise CheckpointError(
            f"{path}: {len(entries)} files; an archive of a model has at most {_MOST_ENTRIES}"
        )
    outside = [entry.filename for entry in entries if _leads_outside(entry.filename)]
    links = [entry.filename for entry in entries if stat.S_ISLNK(entry.external_attr >> 16)]
    named = {PurePosixPath(entry.filename): entry for entry in entries}
    bombs = [
        entry.filename for entry in entries if entry.file_size > _BLOCK + _MOST_RATIO * entry.compress_size
    ]
    for what, names in (
        ("paths that lead outside", outside),
        ("links", links),
        (f"files that extract to more than {_MOST_RATIO} times their size", bombs),
    ):
        if names:
            raise CheckpointError(
                f"{path}: has {what}: {listed(names, 3)}; use the archive that its authors published"
            )
    if len(named) < len(entries) or sum(entry.compress_size for entry in entries) > path.stat().st_size:
        raise CheckpointError(
            f"{path}: has two files of the same name or path; use the archive that its authors published"
        )
    return named


def _is_of_mac(name: str) -> bool:
    """Whether an entry is one that macOS adds to a zip beside its files."""
    return name.startswith("__MACOSX/") or PurePosixPath(name).name == ".DS_Store"


def _leads_outside(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return not parts or PurePosixPath(name).is_absolute() or ".." in parts or "\\" in name or "\0" in name


def _extract(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, target: Path) -> None:
    """Write one file; zipfile verifies its checksum and reads no more than the stated size."""
    with archive.open(entry) as source, open(target, "wb") as file:
        shutil.copyfileobj(source, file, _BLOCK)


def _refuse_without_space(path: Path, entry: zipfile.ZipInfo, folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if entry.file_size > free:
        raise CheckpointError(
            f"{path}: {entry.filename} takes {entry.file_size >> 20} MiB, but {folder.parent} has "
            f"{free >> 20} MiB left; unpack the zip elsewhere and give its folder, or set TMPDIR"
        )


def _enter(folder: Path) -> Path:
    """Descend while a folder holds nothing but one folder other than ESPnet's `exp`."""
    while True:
        inner = list(folder.iterdir())
        if len(inner) != 1 or not inner[0].is_dir() or inner[0].name == "exp":
            return folder
        folder = inner[0]
