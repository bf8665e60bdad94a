"""What a result depends on besides its settings: versions, commits, the command, the machine."""

import os
import platform
import resource
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path


def collect_versions() -> dict[str, str]:
    """Return the software versions that a result depends on."""
    names = ("torch", "torchaudio", "espnet", "adaptkit")
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in names}}


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
    return f"{_processor()}, {num_cores} core{'s' if num_cores > 1 else ''}"


def command_line() -> str:
    """Return the command line of this process, as one would type it."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def peak_memory_mb() -> float:
    """Return the peak memory of this process in MiB: on the GPU if CUDA is in use, otherwise resident."""
    import torch  # imported here: a report only reads records and should not wait seconds for torch

    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10  # Linux counts in KiB


def _find_commit(folder: Path) -> str | None:
    """Return the commit of a folder, with `+dirty` if tracked files differ from it."""
    commit = _git(folder, "rev-parse", "HEAD")
    if commit and _git(folder, "status", "--porcelain", "--untracked-files=no"):
        return f"{commit}+dirty"
    return commit


def _git(folder: Path, *words: str) -> str | None:
    """Run git without the repository's hooks; None if git or the repository is missing."""
    safe = ("-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", "--no-optional-locks")
    try:
        done = subprocess.run(
            ["git", *safe, "-C", str(folder), *words], capture_output=True, text=True, check=True
        )
    except (FileNotFoundError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _processor() -> str:
    """Return the CPU model as Linux reports it; elsewhere, as `platform` does."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
