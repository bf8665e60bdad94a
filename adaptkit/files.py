"""Read and write files; a file is written completely or not at all."""

import errno
import json
import os
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from adaptkit.errors import AdaptkitError

_BLOCK_BYTES = 1 << 22  # of a text file, as far as the next end of a line


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, renamed to `path` on success and removed if the block raises.

    The temporary name keeps the suffix, from which writers infer the format. A full or read-only disk becomes
    an AdaptkitError that names the file, provided the block writes through Python's own file objects: given a
    path, torch.save does not raise an OSError on a full disk.
    """
    path = Path(path)
    if path.name in ("", ".."):
        raise AdaptkitError(f"{path}: is a folder, where a file belongs; name a file in it")
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise AdaptkitError(explain_os_error(error, path)) from error
    finally:
        with suppress(OSError):  # a folder that cannot be written to has no temporary file either
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def remove(path: Path) -> None:
    """Remove a file, or a link, if there is one; an AdaptkitError names what cannot be removed."""
    try:
        Path(path).unlink(missing_ok=True)
    except OSError as error:
        raise AdaptkitError(explain_os_error(error, path)) from error


def read_text(path: Path) -> str:
    """Read a text file; if it is missing, unreadable or not UTF-8, an AdaptkitError names it."""
    try:
        return _decode(path, Path(path).read_bytes())  # as it is: Path.read_text would turn CR into LF
    except OSError as error:
        raise AdaptkitError(explain_os_error(error, path)) from error
    except ValueError as error:  # a NUL character
        raise AdaptkitError(f"{str(path)!r}: not a path: {error}") from error


def read_blocks(path: Path) -> Iterator[str]:
    """Yield a text file as blocks of whole lines, of some megabytes each; errors are those of `read_text`.

    Every block ends as `split_lines` needs it: with LF, unless the file has none.
    """
    first = 0
    try:
        with open(path, "rb") as file:
            while block := file.read(_BLOCK_BYTES) + file.readline():
                text = _decode(path, block, first)
                yield text if text.endswith("\n") or not first else f"{text}\n"
                first += len(block)
    except OSError as error:
        raise AdaptkitError(explain_os_error(error, path)) from error


def parse_json(text: str) -> Any:
    """Parse json; a ValueError says what is wrong with it, 10,000 nested brackets too."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deep") from None


def _decode(path: Path, content: bytes, first: int = 0) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        where = f"byte {first + error.start}"
        raise AdaptkitError(f"{path}: not UTF-8 text ({where}); convert it with iconv") from error


def require_regular(path: Path) -> None:
    """Refuse a FIFO, a device, a socket or a folder: opening one may wait for ever, or read without end.

    What the shell passes by process substitution, `<(...)`, is meant for files named on the command line;
    those are opened without this check.
    """
    try:
        mode = Path(path).stat().st_mode
    except OSError as error:
        if Path(path).is_symlink():
            target = f"is a link to {os.readlink(path)!r}, which cannot be followed"
            raise AdaptkitError(f"{path}: {target}; mend or remove the link") from error
        raise AdaptkitError(explain_os_error(error, path)) from error
    except ValueError as error:  # a NUL character
        raise AdaptkitError(f"{str(path)!r}: not a path: {error}") from error
    _refuse_irregular(mode, path)


def read_regular(path: Path) -> bytes:
    """Read a file as `require_regular` would allow, also if another takes its place meanwhile.

    OSError says what the system does; a FIFO, a device or a folder is an AdaptkitError.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # else a FIFO waits for a writer
    try:
        _refuse_irregular(os.fstat(descriptor).st_mode, path)
        with open(descriptor, "rb", buffering=0, closefd=False) as file:
            return file.read()
    finally:
        os.close(descriptor)


@contextmanager
def held_in_memory(content: bytes) -> Iterator[str]:
    """Yield the path of a file in memory with some content, for readers that need a path."""
    with open(os.memfd_create("content"), "w+b") as file:
        file.write(content)
        file.flush()
        yield f"/proc/self/fd/{file.fileno()}"


def _refuse_irregular(mode: int, path: Path) -> None:
    if not stat.S_ISREG(mode):
        kinds = {stat.S_IFIFO: "a FIFO", stat.S_IFDIR: "a folder", stat.S_IFSOCK: "a socket"}
        kind = kinds.get(stat.S_IFMT(mode), "a device")
        raise AdaptkitError(f"{path}: is {kind}, not a regular file; replace it with the file itself")


def split_lines(text: str) -> list[str]:
    r"""Split text at line ends: LF, CR LF, or CR in a text without any LF, as old Macs wrote it.

    A CR elsewhere does not end a line, nor does U+2028, at which str.splitlines would split.

    >>> split_lines("a\u2028b\r\nc\rd\n")
    ['a\u2028b', 'c\rd']
    """
    end = "\n" if "\n" in text else "\r"
    lines = text.removesuffix(end).split(end) if text else []
    return [line.removesuffix("\r") for line in lines]


def stamp(location: str | Path) -> list[int]:
    """Return the size and modification time of a file; an empty list if the location is not a file."""
    try:
        status = Path(location).stat()
    except (OSError, ValueError):  # a command, or no path at all
        return []
    return [status.st_size, status.st_mtime_ns]


def checksum(path: Path) -> int:
    """Return the CRC-32 of a file's content."""
    crc = 0
    try:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                crc = zlib.crc32(block, crc)
    except OSError as error:
        raise AdaptkitError(explain_os_error(error, path)) from error
    return crc


def is_disk_full(error: BaseException) -> bool:
    """Whether a full disk, a quota or a limit on the size of files is the error, or has caused it."""
    cause = error if isinstance(error, OSError) else error.__cause__
    return isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def explain_os_error(error: OSError, path: Path) -> str:
    """Explain an operating-system error for `path`, with a remedy where there is one."""
    in_the_way = "a file is in the place of a folder; choose another folder, or move the file away"
    what = {
        errno.ENOSPC: "the disk is full, nothing was written; free some space and run the same command again",
        errno.EDQUOT: "the disk quota is used up, nothing was written; free some space and run again",
        errno.EFBIG: "file size limit exceeded, nothing was written; raise the limit (ulimit -f)",
        errno.EACCES: "permission denied; choose a folder you own",
        errno.EROFS: "the file system is read-only; choose another folder",
        errno.ENOENT: "no such file or folder",
        errno.EISDIR: "is a folder, where a file belongs; move it away",
        errno.EEXIST: in_the_way,
        errno.ENOTDIR: in_the_way,
        errno.ELOOP: "is a link that leads to itself; remove it",
    }
    return f"{path}: {what.get(error.errno, error.strerror or str(error))}"
