"""Enrollment by voice as the server offers it: prompts, speakers, their recordings and their jobs."""

import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from adaptkit import locks
from adaptkit.base.checkpoint import BaseModel
from adaptkit.errors import AdaptkitError, ConfigError, DataError, listed, nearest
from adaptkit.files import is_disk_full, remove
from adaptkit.kaldi.tables import read_table
from adaptkit.serve.enrollment.jobs import JobRecord, Jobs
from adaptkit.serve.enrollment.recordings import Recorded, Recordings
from adaptkit.serve.enrollment.runner import Runner
from adaptkit.serve.enrollment.schemas import Job, Prompt, Prompts, Recording, Speaker, Speakers
from adaptkit.serve.enrollment.split import split
from adaptkit.serve.enrollment.spoken import fit_text, read_spoken, refuse_hasty
from adaptkit.serve.enrollment.training import Spec
from adaptkit.serve.schemas import Refusal
from adaptkit.submodels import export
from adaptkit.submodels.files import file_name

_LOG = logging.getLogger(__name__)
_LONGEST_PROMPT_ID = 100
_ENDING_SEC = 10.0  # for a job that is cancelled to end
_EVERY_SEC = 0.05


@dataclass(frozen=True)
class EnrollmentSettings:
    """Where recordings are kept, and what is read aloud."""

    folder: Path
    prompts: Path  # a Kaldi table of prompt ids and texts
    max_recordings: int  # of a speaker
    nice: int = 19  # priority of jobs: 19 is the lowest


class Enrollment:
    """The speakers of a folder, with their recordings and jobs. What it does may wait for the disk."""

    def __init__(
        self,
        settings: EnrollmentSettings,
        base: BaseModel,
        *,
        submodels: Path,
        max_sec: float,
        look: Callable[[], None],
    ):
        self.prompts = read_prompts(settings.prompts, base)
        self._base, self._base_path, self._submodels = base, base.path.resolve(), submodels.resolve()
        self._max_sec, self._look, self._nice = max_sec, look, settings.nice
        self._recordings = Recordings(settings.folder, most=settings.max_recordings)
        self._jobs = Jobs(self._recordings.folder)
        self._runner = Runner(self._recordings, self._jobs, self._make_spec, self._install)
        self.pool = ThreadPoolExecutor(2, "recordings", initializer=torch.set_num_threads, initargs=(1,))

    def start(self) -> None:
        """Start to run jobs."""
        self._runner.start()

    def close(self) -> None:
        """End the running job, and what is in progress."""
        self._runner.close()
        self.pool.shutdown(cancel_futures=True)

    @property
    def is_alive(self) -> bool:
        """Whether jobs are being run."""
        return self._runner.is_alive

    def as_refusal(self, error: AdaptkitError) -> Refusal:
        """Return what a client is told of an error, which is logged: nothing of the server's paths."""
        _LOG.warning("%s", error)
        if is_disk_full(error):
            return Refusal(507, "the disk of the server is full, so nothing was kept; free some space there")
        return Refusal(500, self._without_folder(str(error)))

    def _without_folder(self, message: str) -> str:
        folders = (self._recordings.folder, self._submodels, self._base_path)
        for folder in folders:
            message = message.replace(f"{folder}/", "").replace(str(folder), "the folder")
        return message

    def list_prompts(self) -> Prompts:
        """List the prompts in the order of their ids."""
        return Prompts(prompts=[Prompt(id=name, text=text) for name, text in self.prompts.items()])

    def list_speakers(self) -> Speakers:
        """List all speakers that have been made here."""
        found = []
        for name in self._recordings.names():
            try:
                found.append(self.describe(name))
            except Refusal:  # removed meanwhile, or a folder that is not named after a speaker
                continue
            except AdaptkitError as error:  # damaged, which concerns no other speaker
                _LOG.warning("%s", error)
        return Speakers(speakers=found)

    def make(self, name: str) -> tuple[bool, Speaker]:
        """Make a speaker, unless there is one; return whether there was none, and a description."""
        return self._recordings.make(name), self.describe(name)

    def describe(self, name: str) -> Speaker:
        """Describe a speaker with recordings and job."""
        recordings, job = self._recordings.read(name), self._jobs.find(name)
        return Speaker(
            speaker=name,
            has_submodel=(self._submodels / file_name(name)).is_file(),
            audio_sec=round(sum(one.audio_sec for one in recordings), 3),
            recordings=[describe_recording(one) for one in recordings],
            job=None if job is None else self._describe_job(job),
        )

    def remove(self, name: str) -> None:
        """Remove a speaker, even a damaged one: job, Submodel and recordings; it can be repeated."""
        if name not in self._recordings:
            self._recordings.read(name)  # says so
        with self._recordings.changing(name):
            job = self._jobs.find(name)
            if job is not None and job.state == "queued":
                self._jobs.remove(name)
        self._await_end(name, _ENDING_SEC)
        with self._recordings.changing(name):
            if name not in self._recordings:
                return
            with locks.hold(self._submodels, wait=True):
                remove(self._submodels / file_name(name))
            self._jobs.remove(name)
            self._recordings.remove_speaker(name)
        self._look()

    def add(self, name: str, body: bytes, text: str, prompt: str | None, is_correction: bool) -> Recording:
        """Check a recording and keep it."""
        if name not in self._recordings:
            self._recordings.read(name)  # says so
        if prompt is not None and prompt not in self.prompts:
            near = nearest(prompt, self.prompts) or "; GET /v1/prompts lists them"
            raise Refusal(422, f"prompt: there is no prompt {prompt[:_LONGEST_PROMPT_ID]!r}{near}")
        words = fit_text(text or self.prompts.get(prompt, ""), self._base)
        speech = read_spoken(body, rate_hz=self._base.rate_hz, most_sec=self._max_sec)
        refuse_hasty(speech, words, self._base)
        kind = "correction" if is_correction else "prompt"
        made = Recorded("", words, round(speech.duration_sec, 3), kind, prompt)
        return describe_recording(self._recordings.add(name, speech.samples, self._base.rate_hz, made))

    def find_audio(self, name: str, recording: str) -> bytes:
        """Return a recording as a WAV file."""
        path = self._recordings.find(name, recording)
        try:
            return path.read_bytes()
        except FileNotFoundError as error:  # removed meanwhile
            raise Refusal(404, f"'{name}' has no such recording") from error

    def remove_recording(self, name: str, recording: str) -> None:
        """Remove a recording."""
        self._recordings.remove(name, recording)

    def enroll(self, name: str) -> Job:
        """Queue a job for a speaker; refuse a second one, and too few recordings."""
        with self._recordings.changing(name):
            recordings, before = self._recordings.read(name), self._jobs.find(name)
            if before is not None and before.is_active:
                done = f"{self._jobs.progress(before):.0%} done"
                how = "waits for others" if before.state == "queued" else f"is running, {done}"
                raise Refusal(409, f"'{name}' has a job already, which {how}; wait for it, or cancel it")
            kept = {"held_out": before.held_out, "trained_on": before.trained_on} if before else {}
            split(recordings, **kept)
            self._jobs.uncancel(name)
            job = JobRecord(name, "queued", time.time(), **kept)
            self._jobs.write(job)
            self._jobs.announce()
        self._runner.wake()
        return self._describe_job(job)

    def find_job(self, name: str) -> Job:
        """Describe the latest job of a speaker."""
        self._recordings.read(name)
        job = self._jobs.find(name)
        if job is None:
            raise Refusal(404, f"'{name}' has no job; POST /v1/speakers/{name}/enroll starts one")
        return self._describe_job(job)

    def cancel(self, name: str) -> Job:
        """Cancel the job of a speaker, and wait a moment for its end; one that has ended stays as it is."""
        self.find_job(name)
        with self._recordings.changing(name):
            job = self._jobs.find(name)
            if job is not None and job.state == "queued":
                self._jobs.write(job.end("cancelled", "cancelled before it began"))
        self._await_end(name, _ENDING_SEC)
        return self.find_job(name)

    def _await_end(self, name: str, most_sec: float) -> None:
        """Ask for the running job to be cancelled, and wait until it has ended."""
        until_sec = time.monotonic() + most_sec
        while (job := self._jobs.find(name)) is not None and job.is_active:
            if not self._jobs.is_cancelled(name):
                self._jobs.cancel(name)
            if time.monotonic() > until_sec:
                raise Refusal(503, f"the job of '{name}' does not end; try it again in a moment")
            time.sleep(_EVERY_SEC)

    def _describe_job(self, job: JobRecord) -> Job:
        waiting = [one.speaker for one in self._jobs.queue()] if job.state == "queued" else []
        return Job(
            state=job.state,
            position=waiting.index(job.speaker) + 1 if job.speaker in waiting else None,
            progress=round(self._jobs.progress(job), 3),
            seconds=round(job.seconds, 1),
            message=job.message,
            wer_start=job.wer_start,
            wer_new=job.wer_new,
            num_train=len(job.trained_on) if job.started else None,
            num_valid=len(job.held_out) if job.started else None,
        )

    def _make_spec(self, speaker: str, work: Path) -> Spec:
        device = str(next(self._base.model.parameters()).device)
        return Spec(speaker, str(self._base_path), str(self._submodels), str(work), device, self._nice)

    def _install(self, spec: Spec) -> None:
        """Put the trained weights of a speaker in use, in this process at once."""
        export.export(spec.trained.adapter, self._base, self._submodels, tasks=[spec.speaker])
        self._look()


def read_prompts(path: Path, base: BaseModel) -> dict[str, str]:
    """Read the table of prompts; refuse ids that are no plain names, and texts the model cannot write."""
    prompts = read_table(path)
    if not prompts:
        raise DataError(f"{path}: no prompts; write a line 'id words' for each sentence to be read")
    odd = [name for name in prompts if len(name) > _LONGEST_PROMPT_ID or not _is_plain(name)]
    if odd:
        raise DataError(
            f"{path}: ids with other characters than letters, digits, . - and _: {listed(odd, 3)}"
        )
    try:
        for name, text in prompts.items():
            fit_text(text, base, what=f"{path}: {name}")
    except Refusal as error:
        raise ConfigError(str(error)) from error
    return prompts


def describe_recording(one: Recorded) -> Recording:
    """Describe a recording for a response."""
    return Recording(id=one.id, prompt=one.prompt, text=one.text, audio_sec=one.audio_sec, kind=one.kind)


def _is_plain(name: str) -> bool:
    return not name.startswith(".") and all(c.isalnum() or c in ".-_" for c in name)


def hold_folder(settings: EnrollmentSettings | None) -> AbstractContextManager[None]:
    """Hold the folder for one server, as two would run jobs for different models in it."""
    return nullcontext() if settings is None else locks.hold(settings.folder)
