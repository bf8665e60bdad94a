"""What a result depends on besides its settings: versions, commits, the command, the machine."""

import os
import platform
import resource
import shlex
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from types import MappingProxyType

from adaptkit.errors import counted


def collect_versions() -> dict[str, str]:
    """Return the software versions that a result depends on."""
    names = ("torch", "torchaudio", "espnet", "adaptkit")
    return {"python": platform.python_version(), **{name: _find_version(name) for name in names}}


def find_toolkit_commit() -> str | None:
    """Return the git commit of adaptkit itself; None if it was not installed from a checkout."""
    package = Path(__file__).parent
    is_tracked = _git(package, "ls-files", "--error-unmatch", Path(__file__).name)
    return _find_commit(package) if is_tracked else None


def find_recipe_commit() -> str | None:
    """Return the git commit of the working folder; None outside a repository."""
    return _find_commit(Path.cwd())


def describe_device(device: str) -> str:
    """Return the name of a device: the CPU model with its number of cores, or the GPU.

    >>> describe_device("cpu").endswith("cores") or describe_device("cpu").endswith("core")
    True
    """
    import torch  # imported here: a report only reads records and should not wait seconds for torch

    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    num_cores = len(os.sched_getaffinity(0))
    return f"{_processor()}, {counted(num_cores, 'core')}"


def command_line() -> str:
    """Return the command line of this process, as one would type it."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def peak_memory_mb() -> float:
    """Return the peak memory of this process in MiB: on the GPU if CUDA is in use, otherwise resident."""
    import torch  # imported here: a report only reads records and should not wait seconds for torch

    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10  # Linux counts in KiB


def _find_version(name: str) -> str:
    """Return the version of an installed package; a source folder on the path has none."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _find_commit(folder: Path) -> str | None:
    """Return the commit of a folder, with `+dirty` if tracked files differ from it."""
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return None
    status = ("status", "--porcelain", "--untracked-files=no", "--ignore-submodules=all")
    return f"{commit}+dirty" if _git(folder, *status, settings=_disable_filters(folder)) else commit


def _disable_filters(folder: Path) -> dict[str, str]:
    """Return settings with which git runs none of the repository's filters to compare files."""
    names = _git(folder, "config", "-z", "--name-only", "--get-regexp", r"^filter\.") or ""
    drivers = {name.rpartition(".")[0] for name in names.split("\0") if name.count(".") > 1}
    return {f"{driver}.{key}": value for driver in drivers for key, value in _NO_FILTER.items()}


_NO_FILTER = {"clean": "", "smudge": "", "process": "", "required": "false"}
_NO_PROGRAMS = {"core.fsmonitor": "false", "core.hooksPath": os.devnull}
_NO_NETWORK = {"GIT_ALLOW_PROTOCOL": "none", "GIT_NO_LAZY_FETCH": "1", "GIT_TERMINAL_PROMPT": "0"}


def _git(folder: Path, *words: str, settings: Mapping[str, str] = MappingProxyType({})) -> str | None:
    """Run git without any program that the repository names; None if git or the repository is missing."""
    changed = {**_NO_PROGRAMS, **settings}
    first = int(os.environ.get("GIT_CONFIG_COUNT") or 0)
    environment = {**os.environ, **_NO_NETWORK, "GIT_CONFIG_COUNT": str(first + len(changed))}
    for index, (key, value) in enumerate(changed.items(), first):  # unlike -c, keys may have any character
        environment |= {f"GIT_CONFIG_KEY_{index}": key, f"GIT_CONFIG_VALUE_{index}": value}
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", "--no-pager", "-C", str(folder), *words],
            capture_output=True,
            text=True,
            errors="surrogateescape",
            check=True,
            env=environment,
            stdin=subprocess.DEVNULL,
            timeout=_MOST_SEC,
        )
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return done.stdout.strip("\n")


_MOST_SEC = 30  # for a repository whose settings include a FIFO


def _processor() -> str:
    """Return the CPU model as Linux reports it; elsewhere, as `platform` does."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
