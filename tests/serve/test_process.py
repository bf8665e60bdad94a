"""`adaptkit serve` as a process of its own, over sockets."""

import asyncio
import contextlib
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
import typer

from adaptkit.cli.main import app

pytestmark = pytest.mark.espnet
ADAPTKIT = Path(sys.executable).with_name("adaptkit")
SPEAKERS = ("spk1", "spk10", "spk2")


@pytest.fixture(scope="module")
def running(started, base_dir, submodels):
    """A server that several tests ask."""
    limits = ("--max-body-mb", "1", "--timeout-sec", "10", "--preload", "spk2")
    with started("--base", base_dir, "--submodels", submodels, *limits) as server:
        yield server


def read_all(connection):
    """Read until the other side closes."""
    return b"".join(iter(lambda: connection.recv(65536), b""))


def test_clients_at_once_hear_what_decoding_hears(running, recordings, decoded):
    pairs = [(utt_id, speaker) for utt_id in recordings for speaker in (*SPEAKERS, None)][:64]

    async def main():
        async with httpx.AsyncClient(timeout=60) as client:

            def ask(utt_id, speaker):
                params = {} if speaker is None else {"speaker": speaker}
                return client.post(f"{running.url}/v1/recognize", params=params, content=recordings[utt_id])

            return await asyncio.gather(*(ask(*pair) for pair in pairs))

    answers = [response.json() for response in asyncio.run(main())]
    assert [answer["text"] for answer in answers] == [decoded[pair][0] for pair in pairs]
    assert [a["score"] for a in answers] == pytest.approx([decoded[p][1] for p in pairs], abs=1e-3)


def test_bad_clients_are_answered_and_the_next_one_is_served(running, recordings):
    body = recordings["spk1-00"]
    head = b"POST /v1/recognize?speaker=spk1 HTTP/1.1\r\nHost: here\r\n"
    with running.connect() as slow, running.connect() as large, running.connect() as gone:
        slow.sendall(head + b"Content-Length: 1000\r\n\r\n" + body[:100])  # fewer bytes than it says
        large.sendall(head + b"Content-Length: 99999999\r\n\r\n" + body)
        gone.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        gone.close()
        assert read_all(large).startswith(b"HTTP/1.1 413 ")
        assert read_all(slow).startswith(b"HTTP/1.1 408 ")
    assert running.post(b"no audio", "spk1").status_code == 415
    assert running.post(body, "spk1").status_code == 200


def test_a_client_that_sends_ten_times_too_much_reads_why(running):
    for _ in range(5):
        assert running.post(bytes(10_000_000), "spk1").status_code == 413


def pour(connection):
    """Send and send, 65 MB."""
    connection.sendall(b"POST /v1/recognize HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n")
    for _ in range(1000):
        connection.sendall(b"10000\r\n" + bytes(0x10000) + b"\r\n")


def test_an_endless_body_is_cut_off(running, recordings):
    with running.connect() as connection, pytest.raises(OSError, match=r"reset|pipe"):
        pour(connection)
    assert running.post(recordings["spk1-00"], "spk1").status_code == 200


@pytest.fixture(scope="module")
def hasty(started, base_dir, submodels):
    """A server that gives its clients two seconds."""
    with started("--base", base_dir, "--submodels", submodels, "--timeout-sec", "2") as server:
        yield server


def is_closed_in_time(connection, content):
    """Send a byte every 0.1 s, for 10 s at most, until the other side closes."""
    connection.settimeout(0.1)
    for place in range(100):
        try:
            connection.sendall(content[place : place + 1])
            if connection.recv(65536) == b"":
                return True
        except TimeoutError:
            continue
        except ConnectionError:
            return True
    return False


@pytest.mark.parametrize(
    "before", [b"", b"GET /health HTTP/1.1\r\nHost: here\r\n\r\n"], ids=["first", "next"]
)
@pytest.mark.parametrize(
    "head", [b"", b"GET /health HTTP/1.1\r\nHost: " + bytes([97]) * 100], ids=["idle", "slow"]
)
def test_a_connection_without_a_whole_request_is_closed(hasty, before, head):
    with hasty.connect() as connection:
        connection.sendall(before)
        if before:
            assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
        assert is_closed_in_time(connection, head)


def test_a_client_that_does_not_fetch_its_answers_is_left(hasty):
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", hasty.port))
        connection.settimeout(1)
        started_sec = time.monotonic()
        with pytest.raises(ConnectionError):  # noqa: PT012 (until it is over)
            while time.monotonic() < started_sec + 20:
                with contextlib.suppress(TimeoutError):
                    connection.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: here\r\n\r\n" * 1000)


def test_requests_on_one_connection_may_go_on_for_longer_than_one_may_take(hasty, recordings):
    with httpx.Client(timeout=20) as client:
        started_sec = time.monotonic()
        while time.monotonic() < started_sec + 5:
            response = client.post(f"{hasty.url}/v1/recognize", content=recordings["spk1-00"])
            assert response.status_code == 200
            time.sleep(0.2)


def test_it_listens_on_this_machine_alone_unless_told_otherwise(running):
    with pytest.raises(ConnectionRefusedError):  # which is this machine too, and not 127.0.0.1
        socket.create_connection(("127.0.0.2", running.port), timeout=20)
    command = typer.main.get_command(app).commands["serve"]
    assert {one.name: one.default for one in command.params}["host"] == "127.0.0.1"


@pytest.mark.parametrize(
    ("workers", "number"), [(1, signal.SIGTERM), (1, signal.SIGINT), (2, signal.SIGTERM)]
)
def test_a_signal_lets_requests_under_way_end(started, base_dir, submodels, recordings, workers, number):
    body = recordings["spk1-00"]
    words = ("--base", base_dir, "--submodels", submodels, "--workers", workers)
    with started(*words) as server, server.connect() as connection:
        head = b"POST /v1/recognize?speaker=spk1 HTTP/1.1\r\nHost: here\r\nContent-Length: %d\r\n\r\n"
        connection.sendall(head % len(body) + body[:100])
        while "adaptkit_requests_open 1.0" not in httpx.get(f"{server.url}/metrics").text:
            pass
        server.process.send_signal(number)
        connection.sendall(body[100:])
        assert read_all(connection).startswith(b"HTTP/1.1 200 ")
        assert server.process.wait(60) == 0
        assert server.process.stdout.read() == ""
        assert "Traceback" not in "".join(server.log)


def test_a_port_in_use_is_one_message(base_dir, submodels):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        words = ["--base", base_dir, "--submodels", submodels, "--port", port]
        done = subprocess.run([ADAPTKIT, "serve", *words], capture_output=True, text=True, check=False)
    message = (
        f"adaptkit: --host 127.0.0.1 --port {port}: Address already in use; choose another port or host\n"
    )
    assert (done.returncode, done.stderr) == (1, message)


@pytest.mark.parametrize("words", [["--unknown-speaker", "maybe"], ["--port", "70000"], ["--max-queue", "0"]])
def test_misuse_exits_with_2(base_dir, submodels, words):
    words = ["--base", base_dir, "--submodels", submodels, *words]
    done = subprocess.run([ADAPTKIT, "serve", *words], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")


def test_without_the_extra_it_says_what_to_install():
    program = (
        "import sys\n"
        "sys.modules['uvicorn'] = None\n"
        "sys.argv = ['adaptkit', 'serve', '--base', 'exp/base', '--submodels', 'exp/submodels']\n"
        "from adaptkit.cli.main import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "pip install 'adaptkit[serve]'" in done.stderr
