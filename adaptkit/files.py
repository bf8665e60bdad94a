"""Write files whole or not at all."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from adaptkit.errors import AdaptkitError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`, renamed over it when the block ends and removed when it raises.

    The temporary name keeps the suffix, since writers choose a format by it. A full or read-only disk becomes
    an AdaptkitError that names the file, if the block writes through Python's own files: what torch.save says
    of a full disk when it is given a path is no OSError.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise AdaptkitError(describe(error, path)) from error
    finally:
        with suppress(OSError):  # a folder that cannot be written to has no temporary file either
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_text(path: Path) -> str:
    """Read a text file; a missing, unreadable or undecodable one is an AdaptkitError that names it."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise AdaptkitError(describe(error, path)) from error
    except UnicodeDecodeError as error:
        raise AdaptkitError(f"{path}: not UTF-8 text (byte {error.start}); convert it with iconv") from error


def split_lines(text: str) -> list[str]:
    r"""Split at line feeds alone: str.splitlines would also split inside a text, at U+2028 and others.

    >>> split_lines("a\u2028b\nc\n")
    ['a\u2028b', 'c']
    """
    return text.removesuffix("\n").split("\n") if text else []


def stamp(location: str | Path) -> list[int]:
    """Give the size and the time of change by which a file is told from another; nothing where it is none."""
    try:
        status = Path(location).stat()
    except OSError:  # a command or a place in an archive
        return []
    return [status.st_size, status.st_mtime_ns]


def describe(error: OSError, path: Path) -> str:
    """Say what an operating-system error means for `path`, with the remedy where there is one."""
    what = {
        errno.ENOSPC: "the disk is full, nothing was written; free some space and run the same command again",
        errno.EDQUOT: "the disk quota is used up, nothing was written; free some space and run again",
        errno.EFBIG: "larger than files may be here, nothing was written; raise the limit (ulimit -f)",
        errno.EACCES: "permission denied; choose a folder you own",
        errno.EROFS: "the file system is read-only; choose another folder",
        errno.ENOENT: "no such file or folder",
    }
    return f"{path}: {what.get(error.errno, error.strerror or str(error))}"
