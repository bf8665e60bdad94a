"""Jobs on a server as a process of its own, each trained in another one."""

import json
import os
import resource
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import httpx
import numpy as np
import pytest

from adaptkit.files import write_text
from adaptkit.kaldi import validate
from adaptkit.serve.enrollment.jobs import Jobs

pytestmark = pytest.mark.slow
TEXTS = ("AB", "C A", "BA", "ABC", "CC", "B", "CAB", "A B")  # as in the corpus
ENDED = ("installed", "not_better", "failed", "cancelled")


@pytest.fixture(scope="module")
def options(base_dir, submodels, tmp_path_factory):
    """The options of a server with a folder of its own, and its folders."""
    folder = tmp_path_factory.mktemp("server")
    shutil.copytree(submodels, folder / "submodels")
    (folder / "prompts").write_text("".join(f"p{n} {text}\n" for n, text in enumerate(TEXTS)))
    words = ["--base", base_dir, "--submodels", folder / "submodels", "--refresh-sec", "0.2"]
    words += ["--enroll-nice", "1"]  # at 19, a machine that runs other tests would not get to it
    return [*words, "--enroll", folder / "people", "--prompts", folder / "prompts"]


class Talk:
    """Ways to ask a server as a client does."""

    def __init__(self, server, recordings, until):
        self.server, self.recordings, self.until = server, recordings, until

    def ask(self, verb, path, **options):
        return httpx.request(verb, f"{self.server.url}/v1{path}", timeout=60, **options)

    def record(self, name, number, voice="spk2"):
        body = self.recordings[f"{voice}-0{number}"]
        form = {"files": {"file": body}, "data": {"prompt": f"p{number}"}}
        return self.ask("POST", f"/speakers/{name}/recordings", **form)

    def make(self, name, count=6):
        self.ask("DELETE", f"/speakers/{name}")
        assert self.ask("PUT", f"/speakers/{name}").status_code == 201
        for number in range(count):
            assert self.record(name, number).status_code == 201

    def enroll(self, name):
        return self.ask("POST", f"/speakers/{name}/enroll")

    def job(self, name):
        return self.ask("GET", f"/speakers/{name}/enroll").json()

    def wait(self, name, *states):
        return self.until(lambda: (job := self.job(name))["state"] in states and job)

    def pid(self):
        """Find the process that trains."""
        return self.until(lambda: next(iter(find_training(self.server.process.pid)), None))


def find_training(pid):
    """Find the processes that train, below a server with or without workers."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):
            for child in map(int, (task / "children").read_text().split()):
                is_training = "serve.enrollment.training" in Path(f"/proc/{child}/cmdline").read_text()
                found += [child] if is_training else find_training(child)
    return found


def parent_of(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.fixture(scope="module")
def talk(started, options, recordings, until):
    """A running server."""
    with started(*options) as server:
        yield Talk(server, recordings, until)


def test_a_speaker_is_enrolled_and_again_with_a_correction(talk, options):
    talk.make("anna")
    queued = talk.enroll("anna")
    assert (queued.status_code, queued.json()["state"], queued.json()["position"]) == (202, "queued", 1)
    again = talk.enroll("anna")
    assert again.status_code == 409
    assert "has a job already" in again.json()["message"]
    nice = os.getpriority(os.PRIO_PROCESS, talk.pid())
    job = talk.wait("anna", *ENDED)
    assert job["state"] in ("installed", "not_better"), "".join(talk.server.log)[-3000:]
    assert (job["num_train"], job["num_valid"], job["progress"]) == (4, 2, 1.0)
    assert job["state"] == "not_better" or job["wer_new"] <= job["wer_start"]
    assert nice - os.nice(0) in (0, 1)  # at its very beginning, or after
    has_own = talk.ask("GET", "/speakers/anna").json()["has_submodel"]
    assert has_own == (job["state"] == "installed")
    answer = talk.server.post(talk.recordings["spk2-00"], "anna" if has_own else None).json()
    assert (answer["submodel"] or {}).get("task") == ("anna" if has_own else None)
    form = {"files": {"file": talk.recordings["spk2-00"]}, "data": {"text": "AB", "speaker": "anna"}}
    assert talk.ask("POST", "/corrections", **form).status_code == 201
    talk.enroll("anna")
    later = talk.wait("anna", *ENDED)
    assert later["state"] in ("installed", "not_better"), later
    assert later["num_train"] + later["num_valid"] == 7
    people = options[-3]
    assert validate.find_problems(people / "anna") == []
    assert not (people / ".jobs/anna/work").exists()


def test_jobs_wait_for_each_other_and_can_be_cancelled(talk):
    for name in ("first", "second", "third"):
        talk.make(name)
        talk.enroll(name)
    talk.wait("first", "running")
    assert [talk.job(name)["position"] for name in ("first", "second", "third")] == [None, 1, 2]
    assert talk.ask("DELETE", "/speakers/second/enroll").json()["state"] == "cancelled"
    assert talk.job("third")["position"] == 1
    pid = talk.pid()
    cancelled = talk.ask("DELETE", "/speakers/first/enroll")
    assert (cancelled.status_code, cancelled.json()["state"]) == (202, "cancelled")
    assert not Path(f"/proc/{pid}").exists()
    talk.wait("third", "running")
    pid = talk.pid()
    assert talk.ask("DELETE", "/speakers/third").status_code == 204
    assert talk.ask("GET", "/speakers/third").status_code == 404
    assert not Path(f"/proc/{pid}").exists()


def test_a_killed_job_has_failed_and_the_next_one_runs(talk, options):
    talk.make("kim")
    talk.enroll("kim")
    os.kill(talk.pid(), signal.SIGKILL)
    job = talk.wait("kim", *ENDED)
    assert (job["state"], "memory" in job["message"]) == ("failed", True)
    assert not (options[3] / "kim.safetensors").exists()
    talk.enroll("kim")
    talk.wait("kim", "running")
    talk.ask("DELETE", "/speakers/kim")


def test_a_full_disk_in_the_middle_of_an_upload_or_a_job_is_told_and_nothing_is_half_there(
    talk, options, audio
):
    talk.make("olga", 5)
    pid, limits = talk.server.process.pid, resource.getrlimit(resource.RLIMIT_FSIZE)
    tone = audio(0.3 * np.sin(np.arange(5 * 8000) * 0.7), format="OGG")
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (len(tone) + 2000, limits[1]))  # less than it has as WAV
    form = {"files": {"file": tone}, "data": {"text": "AB"}}
    refused = talk.ask("POST", "/speakers/olga/recordings", **form)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (2000, limits[1]))  # less than a Submodel has
    talk.enroll("olga")
    job = talk.wait("olga", *ENDED)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)
    assert (refused.status_code, job["state"]) == (507, "failed")
    for answer in (refused.json(), job):
        assert "the disk of the server is full" in answer["message"], (answer, talk.server.log)
    people = options[-3]
    assert validate.find_problems(people / "olga") == []
    assert sorted(path.name for path in (people / ".jobs/olga").iterdir()) == ["job.json"]
    assert not (options[3] / "olga.safetensors").exists()
    assert talk.ask("POST", "/speakers/olga/recordings", **form).status_code == 201
    assert len(talk.ask("GET", "/speakers/olga").json()["recordings"]) == 6
    talk.enroll("olga")
    talk.wait("olga", "running")
    assert talk.ask("DELETE", "/speakers/olga").status_code == 204


def test_too_few_recordings_are_refused(talk):
    talk.make("lee", 4)
    refused = talk.enroll("lee")
    assert refused.status_code == 422
    assert "at least 5 different sentences" in refused.json()["message"]
    assert talk.ask("GET", "/speakers/lee/enroll").status_code == 404


def test_a_client_that_leaves_while_uploading_leaves_nothing(talk):
    talk.make("mia", 1)
    with talk.server.connect() as client:
        head = "POST /v1/speakers/mia/recordings HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999\r\n"
        client.sendall(f"{head}Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n".encode())
        time.sleep(0.1)
    assert talk.record("mia", 1).status_code == 201
    assert len(talk.ask("GET", "/speakers/mia").json()["recordings"]) == 2


def test_a_second_server_is_refused_and_a_job_ends_with_a_killed_server(talk, options, forking, until):
    words = ["adaptkit", "serve", "--port", "0", *map(str, options)]
    refused = subprocess.run(words, env=forking, capture_output=True, text=True, check=False)
    assert (refused.returncode, "is writing to it" in refused.stderr) == (1, True), refused.stderr
    talk.make("nora")
    talk.enroll("nora")
    talk.wait("nora", "running")
    pid = talk.pid()
    talk.server.process.send_signal(signal.SIGKILL)
    until(lambda: not Path(f"/proc/{pid}").exists())


@pytest.fixture(scope="module")
def pair(talk, options, started, recordings, until):
    """A server of two workers, in the folder that a killed server has left."""
    talk.server.process.send_signal(signal.SIGKILL)
    talk.server.process.wait(60)
    with started(*options, "--workers", "2") as server:
        yield Talk(server, recordings, until)


def test_a_job_is_seen_through_every_worker_and_can_be_repeated_after_its_own_ended(pair, options, until):
    people = options[-3]
    assert "interrupted" in pair.wait("nora", "failed")["message"]
    assert len(pair.ask("GET", "/speakers/nora").json()["recordings"]) == 6
    pair.enroll("nora")
    pair.wait("nora", "running")
    assert {pair.job("nora")["state"] for _ in range(16)} == {"running"}  # by a connection each
    pid = pair.pid()
    os.kill(parent_of(pid), signal.SIGKILL)
    until(lambda: not Path(f"/proc/{pid}").exists())
    assert "interrupted" in pair.wait("nora", *ENDED)["message"]
    assert not (people / ".jobs/nora/work").exists()
    assert not (options[3] / "nora.safetensors").exists()
    assert validate.find_problems(people / "nora") == []

    assert pair.enroll("nora").status_code == 202
    job = pair.wait("nora", *ENDED)
    assert job["state"] == "installed", job
    asked = [pair.server.post(pair.recordings["spk2-00"], "nora").json() for _ in range(16)]
    assert {answer["submodel"]["task"] for answer in asked} == {"nora"}


def test_a_job_ends_with_a_server_that_is_told_to(pair, options):
    pair.make("nora")
    pair.enroll("nora")
    pid = pair.pid()
    pair.server.process.send_signal(signal.SIGTERM)
    assert pair.server.process.wait(60) == 0
    assert not Path(f"/proc/{pid}").exists()
    assert not (options[-3] / ".jobs/nora/work").exists()
    job = json.loads((options[-3] / ".jobs/nora/job.json").read_text())
    assert (job["state"], "interrupted" in job["message"]) == ("failed", True)


def test_a_record_that_says_nothing_is_no_job(tmp_path):
    jobs = Jobs(tmp_path)
    for text in ("{}", "[]", "1", "{"):
        write_text(jobs.folder_of("anna") / "job.json", text)
        assert (jobs.find("anna"), list(jobs.all())) == (None, [])
