"""`adaptkit serve` as a process of its own, over sockets."""

import asyncio
import contextlib
import signal
import socket
import time

import httpx
import pytest
import typer

from adaptkit.cli.main import app

pytestmark = pytest.mark.slow
SPEAKERS = ("spk1", "spk10", "spk2")


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """The folder that another program names for its metrics."""
    return tmp_path_factory.mktemp("metrics")


@pytest.fixture(scope="module")
def running(started, base_dir, submodels, foreign):
    """A server that several tests ask; it gives its clients three seconds."""
    limits = ("--max-body-mb", "1", "--timeout-sec", "3", "--preload", "spk2")
    words = ("--base", base_dir, "--submodels", submodels, *limits)
    with started(*words, PROMETHEUS_MULTIPROC_DIR=str(foreign)) as server:
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
    head = b"POST /v1/recognize?speaker=spk1 HTTP/1.1\r\nHost: localhost\r\n"
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
    connection.sendall(
        b"POST /v1/recognize HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    for _ in range(1000):
        connection.sendall(b"10000\r\n" + bytes(0x10000) + b"\r\n")


def test_an_endless_body_is_cut_off(running, recordings):
    with running.connect() as connection, pytest.raises(OSError, match=r"reset|pipe"):
        pour(connection)
    assert running.post(recordings["spk1-00"], "spk1").status_code == 200


def is_closed(connection, content):
    """Send a byte and see whether the other side has closed."""
    try:
        connection.sendall(content)
        return connection.recv(65536) == b""
    except TimeoutError:
        return False
    except ConnectionError:
        return True


def test_a_connection_without_a_whole_request_is_closed(running):
    whole, head = (
        b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: " + b"a" * 300,
    )
    with contextlib.ExitStack() as stack:
        waiting = {}
        for name, before, content in (
            *(("idle, first", b"", b""), ("slow, first", b"", head)),
            *(("idle, next", whole, b""), ("slow, next", whole, head)),
        ):
            connection = stack.enter_context(running.connect())
            connection.sendall(before)
            assert not before or connection.recv(65536).startswith(b"HTTP/1.1 200 ")
            connection.settimeout(0.05)
            waiting[name] = connection, content
        for place in range(150):  # a byte every 0.2 s at most, for 30 s
            closed = {n for n, (c, content) in waiting.items() if is_closed(c, content[place : place + 1])}
            waiting = {name: one for name, one in waiting.items() if name not in closed}
    assert waiting == {}


def test_a_client_that_does_not_fetch_its_answers_is_left(running):
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", running.port))
        connection.settimeout(1)
        started_sec = time.monotonic()
        with pytest.raises(ConnectionError):  # noqa: PT012 (until it is over)
            while time.monotonic() < started_sec + 20:
                with contextlib.suppress(TimeoutError):
                    connection.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 1000)


def test_requests_on_one_connection_may_go_on_for_longer_than_one_may_take(running, recordings):
    with httpx.Client(timeout=20) as client:
        started_sec = time.monotonic()
        while time.monotonic() < started_sec + 4:
            response = client.post(f"{running.url}/v1/recognize", content=recordings["spk1-00"])
            assert response.status_code == 200
            time.sleep(0.2)


def test_it_listens_on_this_machine_alone_unless_told_otherwise(running):
    with pytest.raises(ConnectionRefusedError):  # which is this machine too, and not 127.0.0.1
        socket.create_connection(("127.0.0.2", running.port), timeout=20)
    command = typer.main.get_command(app).commands["serve"]
    assert {one.name: one.default for one in command.params}["host"] == "127.0.0.1"


def test_metrics_of_other_programs_are_left_alone(running, foreign):
    assert "adaptkit_requests_open 0.0" in httpx.get(f"{running.url}/metrics").text
    assert not [*foreign.iterdir()]


@pytest.mark.parametrize(
    ("workers", "number"), [(1, signal.SIGTERM), (1, signal.SIGINT), (2, signal.SIGTERM)]
)
def test_a_signal_lets_requests_under_way_end(
    started, base_dir, submodels, recordings, until, workers, number
):
    body = recordings["spk1-00"]
    words = ("--base", base_dir, "--submodels", submodels, "--workers", workers)
    with started(*words) as server, server.connect() as connection:
        head = b"POST /v1/recognize?speaker=spk1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
        connection.sendall(head % len(body) + body[:100])
        until(lambda: "adaptkit_requests_open 1.0" in httpx.get(f"{server.url}/metrics").text)
        server.process.send_signal(number)
        connection.sendall(body[100:])
        assert read_all(connection).startswith(b"HTTP/1.1 200 ")
        assert server.process.wait(60) == 0
        assert server.process.stdout.read() == ""
        assert "Traceback" not in "".join(server.log)
