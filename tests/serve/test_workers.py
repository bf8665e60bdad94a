"""`adaptkit serve --workers`: processes that share a port."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

pytestmark = pytest.mark.espnet
ADAPTKIT = Path(sys.executable).with_name("adaptkit")
SPEAKERS = ("spk1", "spk10", "spk2")


@pytest.fixture(scope="module")
def several(started, base_dir, submodels):
    """A server of two processes."""
    with started("--base", base_dir, "--submodels", submodels, "--workers", "2") as server:
        yield server


def find_workers(server):
    """Find the processes that share the port, by their parent."""
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
    words = {int(child): Path(f"/proc/{child}/cmdline").read_text() for child in children}
    return [pid for pid, line in words.items() if "spawn_main" in line]


def read_metric(server, name):
    """Read a number of the server's metrics, zero where it is not there yet."""
    found = re.search(rf"^{re.escape(name)} (\S+)$", httpx.get(f"{server.url}/metrics").text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def test_processes_share_the_port_and_count_together(several, recordings, decoded):
    answered = 'adaptkit_requests_total{path="/v1/recognize",status="200"}'
    before, pairs = read_metric(several, answered), [*decoded][:32]
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(httpx.Client(timeout=30)) for _ in pairs]  # a connection each
        resident = set()
        for client, (utt_id, speaker) in zip(clients, pairs, strict=True):
            params = {} if speaker is None else {"speaker": speaker}
            url = f"{several.url}/v1/recognize"
            found = client.post(url, params=params, content=recordings[utt_id]).json()
            assert found["text"] == decoded[utt_id, speaker][0]
            known = client.get(f"{several.url}/v1/submodels").json()["known"]
            resident.add(tuple(one["resident"] for one in known))
    assert len(find_workers(several)) == 2
    assert len(resident) > 1  # else it is one process that answers all
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


def test_a_process_that_dies_is_replaced(several, recordings):
    killed = find_workers(several)[0]
    os.kill(killed, signal.SIGKILL)
    while len(set(find_workers(several)) - {killed}) < 2 or "takes its place" not in "".join(several.log):
        time.sleep(0.05)
    assert several.process.poll() is None
    for _ in range(20):
        assert several.post(recordings["spk1-00"], "spk1").status_code == 200
    assert read_metric(several, "adaptkit_requests_open") == 0


def test_another_server_on_a_shared_port_is_refused(several, base_dir, submodels):
    words = ["--base", base_dir, "--submodels", submodels, "--port", str(several.port), "--workers", "2"]
    done = subprocess.run([ADAPTKIT, "serve", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.endswith("Address already in use; choose another port or host\n")


def test_a_fault_that_all_processes_have_is_said_once(base_dir, tmp_path):
    words = ["--base", base_dir, "--submodels", tmp_path, "--port", "0", "--workers", "2"]
    done = subprocess.run([ADAPTKIT, "serve", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert re.match(rf"adaptkit: {tmp_path}.*no such file", done.stderr)
