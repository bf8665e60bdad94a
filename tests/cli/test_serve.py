"""`adaptkit serve` where it does not come to serve."""

import socket
import sys

import pytest


def test_a_port_in_use_is_one_message(adaptkit):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = adaptkit("serve", "--base", "exp/base", "--submodels", "exp/submodels", "--port", port)
    where = f"--host 127.0.0.1 --port {port}"
    message = f"adaptkit: {where}: Address already in use; choose another port or host\n"
    assert (done.exit_code, done.stderr) == (1, message)


@pytest.mark.parametrize(
    "words",
    [
        ["--unknown-speaker", "maybe"],
        ["--port", 70000],
        ["--max-queue", 0],
        ["--timeout-sec", "inf"],
        ["--max-body-mb", "inf"],
    ],
)
def test_misuse_exits_with_2(adaptkit, words):
    done = adaptkit("serve", "--base", "exp/base", "--submodels", "exp/submodels", *words)
    assert (done.exit_code, done.stdout) == (2, "")


def test_without_the_extra_it_says_what_to_install(adaptkit, monkeypatch):
    monkeypatch.delitem(sys.modules, "adaptkit.serve.run", raising=False)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    done = adaptkit("serve", "--base", "exp/base", "--submodels", "exp/submodels")
    assert done.exit_code == 1
    assert "pip install 'adaptkit[serve]'" in done.stderr
