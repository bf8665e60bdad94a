"""What a training and a decoding leave behind for the report: run.json, train.jsonl, versions and commit."""

import json
import logging
import platform
import resource
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from adaptkit.errors import CheckpointError, listed
from adaptkit.files import read_text, write_text

Record = TypeVar("Record", "RunRecord", "DecodeRecord")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunRecord:
    """A finished training, `run.json` in its folder; the base model alone is one of kind `none`."""

    name: str  # of the experiment; its runs with other seeds have the same
    kind: str  # of its adapters, joined with +
    tasks: list[str]
    base_fingerprint: str
    params_base: int
    params_trainable: int
    params_per_task: int  # what one more task would add
    train_seconds: float
    peak_mb: float
    epochs: int  # passes over the training set
    steps: int
    seed: int
    versions: dict[str, str]
    commit: str | None
    command: str
    cpu_seconds: float = 0.0  # of the training's process, start-up included; 0 where nothing was trained

    def write(self, path: Path) -> None:
        """Write the record as json, atomically."""
        _write(self, path)

    @classmethod
    def read(cls, path: Path) -> "RunRecord":
        """Read a record; CheckpointError where it is missing, broken or incomplete."""
        return _read(cls, path, "'adaptkit train' (for the base alone 'adaptkit decode --base-only')")


@dataclass(frozen=True)
class DecodeRecord:
    """A finished decoding, `run.json` in a `decode_<set>` beside the record of what decoded."""

    set_name: str
    num_utterances: int
    audio_sec: float
    decode_seconds: float
    peak_mb: float
    batch_size: int
    base_only: bool

    @property
    def rtf(self) -> float:
        """The real-time factor: seconds of decoding per second of recording."""
        return self.decode_seconds / self.audio_sec

    def write(self, path: Path) -> None:
        """Write the record as json, atomically."""
        _write(self, path)

    @classmethod
    def read(cls, path: Path) -> "DecodeRecord":
        """Read a record; CheckpointError where it is missing, broken or incomplete."""
        return _read(cls, path, "'adaptkit decode'")


@dataclass(frozen=True)
class Progress:
    """How a training went: training loss and validation WER (percent), each as (step, value) in order."""

    loss: tuple[tuple[int, float], ...] = ()
    wer: tuple[tuple[int, float], ...] = ()


def read_progress(path: Path) -> Progress:
    """Read `train.jsonl`; steps that a killed run did past its last save give way to those done again.

    The line that a kill cut short is left out, with a warning.
    """
    loss: dict[int, float] = {}
    wer: dict[int, float] = {}
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        try:
            event = json.loads(line)
            if event["event"] == "step":
                loss[event["step"]] = event["loss"]
            elif event["event"] == "valid":
                wer[event["step"]] = event["wer"]
        except (json.JSONDecodeError, KeyError):
            log.warning("%s:%d: left out, cut short when a run was killed", path, number)
    return Progress(tuple(sorted(loss.items())), tuple(sorted(wer.items())))


def collect_versions() -> dict[str, str]:
    """Give the versions that a result depends on."""
    names = ("torch", "torchaudio", "espnet", "adaptkit")
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in names}}


def find_commit() -> str | None:
    """Give the git commit of the current folder, `+dirty` where tracked files differ; None outside git."""
    commit = _git("rev-parse", "HEAD")
    if commit and _git("status", "--porcelain", "--untracked-files=no"):
        return f"{commit}+dirty"
    return commit


def command_line() -> str:
    """Give the command that this process runs, as one would type it."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def peak_memory_mb() -> float:
    """Give the most memory this process has held, in MiB: on the GPU where CUDA is in use, else resident."""
    import torch  # here: a report reads records and need not wait seconds for torch

    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10  # Linux counts in KiB


def _git(*words: str) -> str | None:
    """Ask git; None where there is no git or no repository."""
    try:
        done = subprocess.run(["git", *words], capture_output=True, text=True, check=True)
    except (FileNotFoundError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _write(record: RunRecord | DecodeRecord, path: Path) -> None:
    write_text(path, json.dumps(asdict(record), indent=1, ensure_ascii=False) + "\n")


def _read(kind: Callable[..., Record], path: Path, command: str) -> Record:
    """Read a record of a kind that `command` writes."""
    if not Path(path).exists():
        raise CheckpointError(f"{path}: no such file; {command} writes it when it is done")
    try:
        return TypeAdapter(kind).validate_json(read_text(path))
    except ValidationError as error:
        wrong = [f"{'.'.join(map(str, e['loc'])) or 'the file'}: {e['msg']}" for e in error.errors()]
        raise CheckpointError(f"{path}: {listed(wrong)}; {command} writes it again") from None
