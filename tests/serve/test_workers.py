"""`adaptkit serve --workers`: processes that share a port."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

from adaptkit.errors import AdaptkitError
from adaptkit.serve import run

pytestmark = pytest.mark.slow
SPEAKERS = ("spk1", "spk10", "spk2")
PATIENCE = 180  # seconds
SCRIPT = """
import ctypes
import logging
import os
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

from adaptkit.cli.script import run
from adaptkit.errors import AdaptkitError
from adaptkit.serve import workers
from adaptkit.serve.workers import Started, supervise

if __name__ != "__main__" and (Path(sys.argv[1]) / "slow").exists():
    time.sleep(6)  # as long as importing torch may take


def work(folder, on_start):
    (folder / "started").open("a").write("x")
    while not (folder / "go").exists():
        time.sleep(0.01)
    if (folder / "broken").exists():
        raise AdaptkitError("this is why")
    on_start(Started(num_known=3, num_slots=4))
    while True:
        time.sleep(0.05)
        with suppress(FileNotFoundError):
            (folder / "stick").rename(folder / "stuck")  # in one of the processes
            (folder / "stuck").write_text(str(os.getpid()))
            ctypes.PyDLL(None).sleep(1000)  # in C, with the interpreter's lock


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    workers.SILENT_SEC = float(sys.argv[3])
    say = lambda started: print("all serve", started.num_known, flush=True)
    job = partial(work, Path(sys.argv[1]))
    run(lambda: supervise(job, 2, on_start=say, most_sec=float(sys.argv[2])), "script")
"""


@contextlib.contextmanager
def supervising(folder, *names, most_sec=PATIENCE, silent_sec=15):
    """Supervise two processes that serve nothing, with files of some names in their folder."""
    (folder / "script.py").write_text(SCRIPT)
    for name in names:
        (folder / name).touch()
    words = [sys.executable, folder / "script.py", folder, str(most_sec), str(silent_sec)]
    environment, pipe = {**os.environ, "TMPDIR": str(folder)}, subprocess.PIPE
    with subprocess.Popen(
        words, stdout=pipe, stderr=pipe, text=True, env=environment, start_new_session=True
    ) as process:
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def find_workers(process, number=2):
    """Find the processes that share the port, by their parent; nothing where there are fewer."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    lines = {}
    for child in children:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            lines[int(child)] = Path(f"/proc/{child}/cmdline").read_text()
    found = [pid for pid, line in lines.items() if "spawn_main" in line]
    return found if len(found) == number else None


def find_serving(server):
    """Find both processes of a server once they serve."""
    found, log = find_workers(server.process), "".join(server.log)
    return found and all(f"Started server process [{pid}]" in log for pid in found) and found


def is_running(pid):
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("names", [["go"], []], ids=["serving", "loading"])
def test_a_signal_ends_all_processes_in_silence(until, tmp_path, number, names):
    with supervising(tmp_path, *names) as process:
        if names:
            assert process.stdout.readline() == "all serve 3\n"
        until(lambda: (tmp_path / "started").exists())
        os.killpg(process.pid, number)  # as a terminal does
        assert process.wait(PATIENCE) == 0
        assert process.stderr.read() == ""  # which ends when the last of them does
    assert not [*tmp_path.glob("adaptkit-serve-*")]


def test_processes_end_with_one_that_was_killed(tmp_path):
    with supervising(tmp_path, "go") as process:
        process.stdout.readline()
        process.kill()
        assert process.stderr.read() == ""
    assert not [*tmp_path.glob("adaptkit-serve-*")]


def test_a_process_that_does_not_end_is_killed(tmp_path):
    with supervising(tmp_path, "go", most_sec=1) as process:
        process.stdout.readline()
        stopped = find_workers(process)[0]
        os.kill(stopped, signal.SIGSTOP)
        process.terminate()
        assert process.wait(PATIENCE) == 0
        assert f"process {stopped} does not end; killing it" in process.stderr.read()
        assert not is_running(stopped)


def test_what_keeps_the_first_from_serving_is_said_once(tmp_path):
    with supervising(tmp_path, "go", "broken") as process:
        assert process.wait(PATIENCE) == 1
        assert process.stderr.read() == "script: this is why\n"
    assert (tmp_path / "started").read_text() == "x"


def test_one_that_is_killed_before_it_serves_is_told_with_a_remedy(until, tmp_path):
    with supervising(tmp_path) as process:
        until(lambda: (tmp_path / "started").exists())
        os.kill(until(lambda: find_workers(process, 1))[0], signal.SIGKILL)
        assert process.wait(PATIENCE) == 1
        assert re.fullmatch(
            r"script: process \d+ ended with exit code -9 before it was ready; .*fewer --workers.*\n",
            process.stderr.read(),
        )


def test_one_that_is_stopped_before_it_serves_is_told_with_a_remedy(until, tmp_path):
    with supervising(tmp_path, silent_sec=4) as process:
        until(lambda: (tmp_path / "started").exists())
        os.kill(until(lambda: find_workers(process, 1))[0], signal.SIGSTOP)
        assert process.wait(PATIENCE) == 1
        said = r"script: process \d+ gave no sign of life for 4 s and was killed before it was ready; .*"
        assert re.fullmatch(said + r"fewer --workers\n", process.stderr.read())


def test_processes_that_end_are_replaced_until_others_serve(until, tmp_path):
    with supervising(tmp_path, "go") as process:
        process.stdout.readline()
        first, other = find_workers(process)
        (tmp_path / "broken").touch()
        os.kill(first, signal.SIGKILL)
        until(lambda: (tmp_path / "started").read_text() == "xxxx")  # the second replacement
        (tmp_path / "broken").unlink()
        until(lambda: len(set(find_workers(process) or ()) - {first, other}) == 1)
        assert is_running(other)
        process.terminate()
        log = process.stderr.read()
    assert f"process {first} ended with exit code -9; a replacement starts now" in log
    assert "this is why; a replacement starts in 1 s" in log


@pytest.fixture(scope="module")
def several(started, base_dir, submodels):
    """A server of two processes."""
    with started("--base", base_dir, "--submodels", submodels, "--workers", "2") as server:
        yield server


def read_metric(server, name):
    """Read a number of the server's metrics."""
    text = httpx.get(f"{server.url}/metrics").text
    return float(re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)[1])


def test_processes_share_the_port_and_count_together(several, recordings, decoded):
    several.post(recordings["spk1-00"], "spk2")
    answered = 'adaptkit_requests_total{path="/v1/recognize",status="200"}'
    before, pairs, answering = read_metric(several, answered), [*decoded][:32], set()
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(httpx.Client(timeout=30)) for _ in pairs]  # a connection each
        for client, (utt_id, speaker) in zip(clients, pairs, strict=True):
            (spk2,) = (
                one["resident"]
                for one in client.get(f"{several.url}/v1/submodels").json()["known"]
                if one["speaker"] == "spk2"
            )
            answering.add(spk2)
            params = {} if speaker is None else {"speaker": speaker}
            url = f"{several.url}/v1/recognize"
            found = client.post(url, params=params, content=recordings[utt_id]).json()
            assert found["text"] == decoded[utt_id, speaker][0]
    assert answering == {True, False}  # one process has it in memory, the other has not
    assert read_metric(several, answered) == before + len(pairs)
    assert read_metric(several, "adaptkit_submodel_known") == len(SPEAKERS)


def test_answers_are_not_held_back_for_an_acknowledgement(several):
    with httpx.Client() as client:
        client.get(f"{several.url}/health")
        taken = []
        for _ in range(50):  # 40 ms each, were TCP allowed to delay the second part of an answer
            started_sec = time.perf_counter()
            assert client.get(f"{several.url}/health").status_code == 200
            taken.append(time.perf_counter() - started_sec)
    assert min(taken) < 0.035


def test_what_a_process_held_is_forgotten_when_it_dies(until, several, recordings):
    several.post(recordings["spk1-00"], "spk1")
    with several.connect() as connection:
        connection.sendall(b"POST /v1/recognize HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n")
        until(lambda: read_metric(several, "adaptkit_requests_open") == 1)
        for pid in find_workers(several.process):
            os.kill(pid, signal.SIGKILL)
        until(lambda: "".join(several.log).count("a replacement starts") == 2)

        def is_back():
            with contextlib.suppress(httpx.TransportError):
                return several.post(recordings["spk1-00"], "spk1").status_code == 200

        until(is_back)
    assert several.process.poll() is None
    assert read_metric(several, "adaptkit_requests_open") == 0
    assert read_metric(several, 'adaptkit_requests_total{path="/v1/recognize",status="200"}') > 1


def test_a_stopped_worker_is_replaced_while_the_other_answers(several, until, recordings):
    stopped, other = until(lambda: find_serving(several))
    os.kill(stopped, signal.SIGSTOP)
    found, is_over = [], threading.Event()

    def ask():
        while not is_over.wait(0.5):
            started_sec = time.monotonic()
            try:
                answer = several.post(recordings["spk1-00"], "spk1").status_code
            except httpx.TransportError as error:
                answer = type(error).__name__
            found.append((answer, time.monotonic() - started_sec))

    # each begins at either worker by chance: at the stopped one all 16 would in one of 65,000 runs
    clients = [threading.Thread(target=ask) for _ in range(16)]
    for client in clients:
        client.start()
    until(lambda: f"process {stopped} gave no sign of life for 15 s" in "".join(several.log))
    num_before = len(found)
    is_over.set()
    for client in clients:
        client.join()
    refused = {answer for answer, _ in found} - {200}
    assert refused <= {"ReadError", "RemoteProtocolError", "ConnectError"}  # never a timeout of 30 s
    assert any(answer == 200 for answer, _ in found[:num_before])
    assert [several.post(recordings["spk1-00"], "spk1").status_code for _ in range(8)] == [200] * 8
    until(lambda: set(find_workers(several.process) or (stopped,)) - {stopped} > {other})


def test_processes_that_are_stopped_or_stuck_are_killed_and_replaced_in_bounded_time(until, tmp_path):
    with supervising(tmp_path, "go", silent_sec=4) as process:
        process.stdout.readline()
        (tmp_path / "stick").touch()
        stuck = int(until(lambda: (tmp_path / "stuck").exists() and (tmp_path / "stuck").read_text()))
        hanging = find_workers(process)
        os.kill(next(pid for pid in hanging if pid != stuck), signal.SIGSTOP)
        started_sec = time.monotonic()
        until(lambda: (tmp_path / "started").read_text() == "xxxx")
        assert time.monotonic() - started_sec < 20
        assert not any(map(is_running, hanging))
        process.terminate()
        log = process.stderr.read()
    for pid in hanging:
        assert f"process {pid} gave no sign of life for 4 s and was killed; a replacement starts now" in log


def test_processes_that_import_for_long_are_waited_for(tmp_path):
    with supervising(tmp_path, "go", "slow", silent_sec=4) as process:
        assert process.stdout.readline() == "all serve 3\n"
        process.terminate()
        assert process.wait(PATIENCE) == 0
        assert process.stderr.read() == ""
    assert (tmp_path / "started").read_text() == "xx"


def test_processes_that_were_stopped_with_their_supervisor_go_on(tmp_path):
    with supervising(tmp_path, "go", silent_sec=4) as process:
        process.stdout.readline()
        before = find_workers(process)
        os.killpg(process.pid, signal.SIGSTOP)
        time.sleep(6)
        os.killpg(process.pid, signal.SIGCONT)
        time.sleep(1)
        assert find_workers(process) == before
    assert (tmp_path / "started").read_text() == "xx"


def test_a_port_is_refused_to_another_server_while_the_first_still_loads():
    with run._reserved("127.0.0.1", 0) as held:
        port = held.getsockname()[1]
        second = run._reserved("127.0.0.1", port)
        with (
            pytest.raises(AdaptkitError, match=f"--port {port}: Address already in use; choose another"),
            second,
        ):
            pass
        with run._take(socket.AF_INET, held.getsockname(), (socket.SO_REUSEADDR, socket.SO_REUSEPORT)) as own:
            own.listen()
            socket.create_connection(("127.0.0.1", port), timeout=20).close()
    with run._reserved("127.0.0.1", port):  # again at once, though the last connection lingers
        pass
