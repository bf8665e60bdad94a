"""Jobs on a server as a process of its own, each trained in another one."""

import os
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from adaptkit.kaldi import validate

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
    found = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with suppress(FileNotFoundError):
            if "serve.enrollment.training" in Path(f"/proc/{child}/cmdline").read_text():
                found.append(int(child))
    tasks = Path(f"/proc/{pid}/task")
    for task in tasks.iterdir():
        for child in (task / "children").read_text().split():
            with suppress(FileNotFoundError, ProcessLookupError):
                if "serve.enrollment.training" in Path(f"/proc/{child}/cmdline").read_text():
                    found.append(int(child))
    return found


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
    assert nice in (0, 1)  # at its very beginning, or after
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


def test_a_second_server_is_refused_and_jobs_end_with_theirs(talk, options, started, forking, until):
    words = ["adaptkit", "serve", "--port", "0", *map(str, options)]
    refused = subprocess.run(words, env=forking, capture_output=True, text=True, check=False)
    assert (refused.returncode, "is writing to it" in refused.stderr) == (1, True), refused.stderr
    talk.make("nora")
    talk.enroll("nora")
    talk.wait("nora", "running")
    pid = talk.pid()
    talk.server.process.send_signal(signal.SIGKILL)
    until(lambda: not Path(f"/proc/{pid}").exists())
    with started(*options) as server:
        again = Talk(server, talk.recordings, until)
        job = again.wait("nora", "failed")
        assert "interrupted" in job["message"]
        assert len(again.ask("GET", "/speakers/nora").json()["recordings"]) == 6
        again.enroll("nora")
        pid = again.pid()
        server.process.send_signal(signal.SIGTERM)
        server.process.wait(60)
        assert not Path(f"/proc/{pid}").exists()
    assert not (options[-3] / ".jobs/nora/work").exists()
    assert subprocess.run(["grep", "-c", "failed", options[-3] / ".jobs/nora/job.json"]).returncode == 0
