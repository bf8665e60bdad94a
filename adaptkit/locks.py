"""Locks on folders: at most one process writes to a folder at a time.

The operating system releases the lock (flock) of a process that ends, however it ends, so a killed run leaves
no lock behind, and the next holder removes the partial files that it may have left.
"""

import errno
import fcntl
import json
import logging
import os
import shlex
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from adaptkit.errors import AdaptkitError
from adaptkit.files import explain_os_error, remove

FILE = ".lock"
_UNSUPPORTED = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)  # some network file systems
_LOG = logging.getLogger(__name__)
_held: dict[Path, int] = {}  # descriptors of the locks of this process


@contextmanager
def hold(folder: Path, *, wait: bool = False, parts: tuple[str, ...] = ()) -> Iterator[None]:
    """Hold the lock on a folder, which is made if it does not exist.

    If another process holds the lock, it is named in an AdaptkitError or, with `wait`, in a log message. A
    folder that this process holds already may be held again. Partial files of killed processes are removed
    from the folder and from its subfolders `parts`.
    """
    folder = Path(folder).resolve()
    if folder in _held:
        yield
        return
    is_new = not folder.exists()
    file = _acquire(folder, wait)
    _held[folder] = file
    try:
        for part in (folder, *(folder / name for name in parts)):
            _remove_partial_files(part)
        yield
    finally:
        _held.pop(folder, None)
        with suppress(OSError):  # read-only meanwhile, or removed
            (folder / FILE).unlink()
        os.close(file)
        if is_new:
            with suppress(OSError):  # not empty, as it should be
                folder.rmdir()


def _acquire(folder: Path, wait: bool) -> int:
    """Lock the file of a folder and write into it who holds it; return its descriptor."""
    path, is_said = folder / FILE, False
    try:
        while True:
            folder.mkdir(parents=True, exist_ok=True)
            try:
                file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
            except FileNotFoundError:  # the previous holder removed the empty folder
                continue
            is_locked = _try_lock(file, folder)
            if is_locked and _is_current(file, path):
                _write_holder(file)
                return file
            holder = _describe_holder(file)
            os.close(file)
            if is_locked:  # the previous holder removed the file between opening and locking
                continue
            if not wait:
                what = f"{holder} is writing to it"
                raise AdaptkitError(f"{folder}: {what}; wait until that has ended, or use another folder")
            if not is_said:
                _LOG.info("%s: waiting for %s, which is writing to it", folder, holder)
            is_said = True
            time.sleep(0.1)
    except OSError as error:
        raise AdaptkitError(explain_os_error(error, folder)) from error


def _try_lock(file: int, folder: Path) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        _LOG.warning("%s: the file system has no locks; run one command at a time in it", folder)
    return True


def _is_current(file: int, path: Path) -> bool:
    """Return whether `path` still names the open file."""
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def _write_holder(file: int) -> None:
    holder = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }
    with suppress(OSError):  # a full disk hides the holder's name, not the lock
        os.ftruncate(file, 0)
        os.pwrite(file, json.dumps(holder).encode(), 0)


def _describe_holder(file: int) -> str:
    try:
        holder = json.loads(os.pread(file, 1 << 20, 0))
        where = f"process {holder['pid']} on {holder['host']}"
        return f"{where} ({holder['command'][:200]}, since {holder['since']})"
    except (ValueError, KeyError, TypeError):  # it has just started, or the disk is full
        return "another process"


def _leave_to_parent() -> None:
    """Close the locks in a forked process, such as a worker that loads batches and outlives its parent."""
    for file in _held.values():
        os.close(file)
    _held.clear()


os.register_at_fork(after_in_child=_leave_to_parent)


def _remove_partial_files(folder: Path) -> None:
    for partial in folder.glob(".*.partial*"):
        _LOG.info("%s: left by a run that was killed; removed", partial)
        remove(partial)
