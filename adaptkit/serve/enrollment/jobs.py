"""Jobs: the latest enrollment of each speaker, as files that all processes of a server share.

`DIR/.jobs/<speaker>/` holds `job.json`, `cancel` if the job is to be cancelled, and `work/` while it runs.
"""

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from adaptkit.errors import AdaptkitError
from adaptkit.files import parse_json, read_text, remove, write_text
from adaptkit.serve.enrollment.recordings import folder_name, name_of
from adaptkit.serve.enrollment.training import MAX_EPOCHS, Spec, read_validations

FOLDER = ".jobs"
INTERRUPTED = "interrupted, as the server ended; nothing has changed: start it again"
_ACTIVE = ("queued", "running")
_BEFORE_START = 0.1  # of the progress: imports, and reading the models
_BEFORE_END = 0.95

State = Literal["queued", "running", "installed", "not_better", "failed", "cancelled"]


@dataclass(frozen=True)
class JobRecord:
    """The latest job of a speaker."""

    speaker: str
    state: State
    since: float  # seconds since 1970
    started: float | None = None
    ended: float | None = None
    message: str = ""
    wer_start: float | None = None
    wer_new: float | None = None
    trained_on: tuple[str, ...] = ()  # recordings
    held_out: tuple[str, ...] = ()

    @property
    def is_active(self) -> bool:
        """Whether the job waits or runs."""
        return self.state in _ACTIVE

    @property
    def seconds(self) -> float:
        """How long the job has run, or ran."""
        return 0.0 if self.started is None else max(0.0, (self.ended or time.time()) - self.started)

    def end(self, state: State, message: str) -> "JobRecord":
        """Return the record of the job's end."""
        return replace(self, state=state, message=message, ended=time.time())


class Jobs:
    """The latest job of every speaker. Whoever writes one holds the speaker's folder."""

    def __init__(self, recordings: Path):
        self.folder = recordings / FOLDER

    def folder_of(self, speaker: str) -> Path:
        """Return the folder of a speaker's job."""
        return self.folder / folder_name(speaker)

    def work_of(self, speaker: str) -> Path:
        """Return the folder in which a job runs."""
        return self.folder_of(speaker) / "work"

    def find(self, speaker: str) -> JobRecord | None:
        """Return the latest job of a speaker; None if there has not been one."""
        path = self.folder_of(speaker) / "job.json"
        with suppress(AdaptkitError, LookupError, ValueError, TypeError):  # or removed
            if path.exists():
                return _parse(read_text(path))
        return None

    def all(self) -> Iterator[JobRecord]:
        """Yield the latest job of every speaker that has one."""
        with suppress(FileNotFoundError):
            for path in sorted(self.folder.iterdir()):
                job = self.find(name_of(path.name)) if path.is_dir() else None
                if job is not None:
                    yield job

    def queue(self) -> list[JobRecord]:
        """List the jobs that wait, the next one first."""
        return sorted((job for job in self.all() if job.state == "queued"), key=lambda job: job.since)

    @property
    def wanted(self) -> Path:
        """A file that is there while a job waits or runs, so that nobody needs to read all records."""
        return self.folder / "wanted"

    def announce(self) -> None:
        """Say that a job waits."""
        write_text(self.wanted, "")

    def take(self) -> JobRecord | None:
        """Return the next job that waits; None if none does. Whoever calls this runs the jobs."""
        remove(self.wanted)  # before the look, so that a job that is announced meanwhile is not overlooked
        waiting = self.queue()
        if waiting:
            self.announce()
        return waiting[0] if waiting else None

    def write(self, job: JobRecord) -> None:
        """Write a record in place of the speaker's earlier one."""
        write_text(self.folder_of(job.speaker) / "job.json", json.dumps(asdict(job)))

    def cancel(self, speaker: str) -> None:
        """Ask for a running job to be cancelled."""
        write_text(self.folder_of(speaker) / "cancel", "")

    def uncancel(self, speaker: str) -> None:
        """Forget that an earlier job was to be cancelled."""
        remove(self.folder_of(speaker) / "cancel")

    def is_cancelled(self, speaker: str) -> bool:
        """Return whether a running job is to be cancelled."""
        return (self.folder_of(speaker) / "cancel").exists()

    def clear_work(self, speaker: str) -> None:
        """Remove the folder in which a job ran."""
        shutil.rmtree(self.work_of(speaker), ignore_errors=True)

    def remove(self, speaker: str) -> None:
        """Remove all there is of a speaker's job."""
        shutil.rmtree(self.folder_of(speaker), ignore_errors=True)

    def progress(self, job: JobRecord) -> float:
        """Return how much of a job is done, from 0 to 1."""
        if job.state == "queued":
            return 0.0
        if job.state != "running":
            return 1.0
        spec = Spec(job.speaker, "", "", str(self.work_of(job.speaker)), "")
        num_epochs = 0
        with suppress(AdaptkitError, OSError):  # the log appears or disappears meanwhile
            num_epochs = max(0, len(read_validations(spec.trained)) - 1)
        return _BEFORE_START + (_BEFORE_END - _BEFORE_START) * min(1.0, num_epochs / MAX_EPOCHS)


def _parse(text: str) -> JobRecord:
    content = parse_json(text)
    lists = {name: tuple(content[name]) for name in ("trained_on", "held_out")}
    return JobRecord(**{**content, **lists})
