"""The thread that runs jobs, one at a time in all processes of a server, each in a process of its own."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import asdict, replace
from pathlib import Path

from adaptkit import locks
from adaptkit.errors import AdaptkitError, counted
from adaptkit.files import is_disk_full, parse_json, read_text, write_text
from adaptkit.kaldi import datadir
from adaptkit.kaldi.datadir import DataDir, Utterance
from adaptkit.serve.enrollment.jobs import INTERRUPTED, JobRecord, Jobs
from adaptkit.serve.enrollment.recordings import Recorded, Recordings
from adaptkit.serve.enrollment.split import split
from adaptkit.serve.enrollment.training import DISK_FULL, Result, Spec
from adaptkit.serve.schemas import Refusal
from adaptkit.serve.watch import Watch

_LOG = logging.getLogger(__name__)
_EVERY_SEC = 0.5  # between looks for jobs that another process of the server has queued
_WATCH_SEC = 0.1  # between looks whether a job has ended, or is to be cancelled
_CLOSING_SEC = 10.0
_MOST_LOGGED = 2000  # bytes of what a process said that failed
_FULL = "the disk of the server is full, so nothing has changed; free some space there and start it again"
_PROGRAM = "adaptkit.serve.enrollment.training"


class Runner:
    """Runs the jobs of a folder; `install` puts the trained weights of a speaker in use."""

    def __init__(
        self,
        recordings: Recordings,
        jobs: Jobs,
        make_spec: Callable[[str, Path], Spec],
        install: Callable[[Spec], None],
    ):
        self._recordings, self._jobs = recordings, jobs
        self._make_spec, self._install = make_spec, install
        self._must_look = True  # also if nobody has announced a job: as the server starts, or a look failed
        self._watch = Watch(self._look, _EVERY_SEC, name="enrollment", closing_sec=_CLOSING_SEC)

    def start(self) -> None:
        """Start to run jobs."""
        self._watch.start()
        self._watch.wake()

    @property
    def is_alive(self) -> bool:
        """Whether jobs are being run."""
        return self._watch.is_alive

    def wake(self) -> None:
        """Look for jobs now."""
        self._watch.wake()

    def close(self) -> None:
        """End the running job, if there is one, and run no more."""
        self._watch.close()

    def _look(self) -> None:
        """Run the queued jobs, unless another process of this server does."""
        if not self._must_look and not self._jobs.wanted.exists():
            return
        self._must_look = True
        with ExitStack() as held:
            try:
                held.enter_context(locks.hold(self._jobs.folder))
            except AdaptkitError:  # another process runs jobs
                return
            for job in self._jobs.all():
                if job.state == "running":  # whoever ran it is gone
                    self._end(job, job.end("failed", INTERRUPTED))
            while not self._watch.is_closing and (job := self._jobs.take()) is not None:
                self._try(job)
        self._must_look = False

    def _try(self, job: JobRecord) -> None:
        """Run a job to its end."""
        running = None
        try:
            running = self._begin(job)
            if running is not None:
                self._end(running, self._follow(running))
        except Exception as error:  # a full disk, for example; the other jobs go on
            message = _FULL if is_disk_full(error) else "the server could not run it; see its log"
            message = str(error) if isinstance(error, Refusal) else message
            if not isinstance(error, Refusal):
                is_bug = not isinstance(error, AdaptkitError | OSError)
                _LOG.warning("the enrollment of %r failed: %s", job.speaker, error, exc_info=is_bug)
            self._end(running or job, (running or job).end("failed", message))

    def _begin(self, job: JobRecord) -> JobRecord | None:
        """Take what the job needs from the speaker's folder; None if it has been cancelled or removed."""
        speaker, jobs = job.speaker, self._jobs
        with self._recordings.changing(speaker):
            now = jobs.find(speaker)
            if now is None or now.state != "queued" or speaker not in self._recordings:
                if now is not None and now.state == "queued":
                    jobs.remove(speaker)
                return None
            jobs.clear_work(speaker)
            parts = split(self._recordings.read(speaker), held_out=job.held_out, trained_on=job.trained_on)
            work = jobs.work_of(speaker)
            for name, recordings in (("train", parts.train), ("valid", parts.valid)):
                self._link(speaker, recordings, work / name)
            spec = self._make_spec(speaker, work)
            write_text(spec.path, json.dumps(asdict(spec)))
            ids = {
                "trained_on": tuple(one.id for one in parts.train),
                "held_out": tuple(one.id for one in parts.valid),
            }
            running = replace(job, state="running", started=time.time(), **ids)
            jobs.write(running)
        return running

    def _link(self, speaker: str, recordings: list[Recorded], folder: Path) -> None:
        """Make a data directory of some recordings, with links to their audio that outlive its removal."""
        (folder / "wav").mkdir(parents=True)
        locations = {}
        for one in recordings:
            path = folder / "wav" / f"{one.id}.wav"
            os.link(self._recordings.find(speaker, one.id), path)
            locations[f"{speaker}-{one.id}"] = str(path)
        utterances = [
            Utterance(f"{speaker}-{one.id}", speaker, f"{speaker}-{one.id}", one.text) for one in recordings
        ]
        seconds = {f"{speaker}-{one.id}": one.audio_sec for one in recordings}
        datadir.write(DataDir(folder, utterances, locations, None, seconds))

    def _follow(self, job: JobRecord) -> JobRecord:
        """Run the process of a job until it ends, or is to be ended; return the record of its end."""
        spec = self._make_spec(job.speaker, self._jobs.work_of(job.speaker))
        with open(spec.folder / "log", "wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", _PROGRAM, str(spec.path)],
                stdin=subprocess.PIPE,  # its end tells the process that this one has ended
                stdout=log,
                stderr=subprocess.STDOUT,
                env={"OMP_WAIT_POLICY": "passive", **os.environ},  # threads that wait leave their core
            )
        try:
            while process.poll() is None:
                if self._watch.is_closing:
                    return job.end("failed", INTERRUPTED)
                if self._jobs.is_cancelled(job.speaker) or job.speaker not in self._recordings:
                    return job.end("cancelled", "cancelled; nothing has changed")
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_WATCH_SEC)
        finally:
            _kill(process)
        return self._finish(job, spec, process.returncode)

    def _finish(self, job: JobRecord, spec: Spec, code: int) -> JobRecord:
        """Install what a job has trained, if it is better; return the record of its end."""
        if code == DISK_FULL:
            _LOG.warning("the enrollment of %r found the disk full", job.speaker)
            return job.end("failed", _FULL)
        if code or not spec.result.exists():
            how = f"killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
            said = (spec.folder / "log").read_bytes()[-_MOST_LOGGED:].decode(errors="replace")
            _LOG.warning("the enrollment of %r was %s; it said: %s", job.speaker, how, said.strip())
            hint = "memory may have run out" if code == -signal.SIGKILL else "see the log of the server"
            return job.end("failed", f"the training was {how}; {hint}; nothing has changed")
        result = Result(**parse_json(read_text(spec.result)))
        if result.error:
            _LOG.warning("the enrollment of %r failed: %s", job.speaker, result.error)
            return job.end("failed", "the recordings could not be trained on; see the log of the server")
        job = replace(job, wer_start=result.wer_start, wer_new=result.wer_new)
        if not result.is_better:
            return job.end(
                "not_better",
                f"the new voice is no better than {result.start} on the "
                f"{counted(len(job.held_out), 'recording')} kept to check it, so nothing has changed; record "
                "more sentences and start it again",
            )
        with self._recordings.changing(job.speaker):
            if self._jobs.is_cancelled(job.speaker) or job.speaker not in self._recordings:
                return job.end("cancelled", "cancelled; nothing has changed")
            self._install(spec)
        return job.end("installed", f"the new voice is in use; it was compared with {result.start}")

    def _end(self, job: JobRecord, ended: JobRecord) -> None:
        """Write the end of a job, unless the speaker has been removed."""
        with self._recordings.changing(job.speaker):
            self._jobs.clear_work(job.speaker)
            if job.speaker in self._recordings:
                self._jobs.write(ended)
                self._jobs.uncancel(job.speaker)
            else:
                self._jobs.remove(job.speaker)


def _kill(process: subprocess.Popen) -> None:
    """End a process with all that it started; it is the leader of a group once it has begun."""
    if process.poll() is None:
        with suppress(ProcessLookupError):
            if os.getpgid(process.pid) == process.pid:
                os.killpg(process.pid, signal.SIGKILL)
        process.kill()
    process.stdin.close()
    process.wait()
