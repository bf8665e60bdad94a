import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time

import pytest

from adaptkit import locks
from adaptkit.errors import AdaptkitError


def test_lock_leaves_no_file_and_no_folder_of_its_own(tmp_path):
    with locks.hold(tmp_path / "new"):
        assert os.listdir(tmp_path / "new") == [locks.FILE]
    assert os.listdir(tmp_path) == []
    with locks.hold(tmp_path / "new"):
        (tmp_path / "new" / "a").touch()
    assert os.listdir(tmp_path / "new") == ["a"]


def test_folder_can_be_held_again_by_its_holder(tmp_path):
    with locks.hold(tmp_path), locks.hold(tmp_path / "." / ""):
        pass
    assert not (tmp_path / locks.FILE).exists()


def test_lock_of_another_process_is_refused_by_the_name_of_its_holder(hold, tmp_path):
    folder = tmp_path / "exp"
    process = hold(folder)
    with pytest.raises(AdaptkitError, match=rf"{folder}: process {process.pid} on \S+ \(-c {folder}, since"):
        locks.hold(folder).__enter__()
    assert (folder / locks.FILE).exists()


def test_lock_of_a_killed_process_is_free(hold, tmp_path):
    folder = tmp_path / "exp"
    process = hold(folder)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (folder / locks.FILE).exists()
    with locks.hold(folder):
        pass
    assert os.listdir(folder) == []


def test_forked_child_does_not_keep_the_lock_of_a_killed_parent(environment, tmp_path):
    program = """
import os, sys, time
from adaptkit import locks
with locks.hold(sys.argv[1]):
    if not os.fork():
        print(os.getpid(), flush=True)
        time.sleep(100)
    time.sleep(100)
"""
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        child = int(process.stdout.readline())
        process.kill()
        process.wait()
        try:
            with locks.hold(tmp_path):
                os.kill(child, 0)  # still there
        finally:
            os.kill(child, signal.SIGKILL)


def test_waiting_ends_with_the_holder_and_says_so(hold, tmp_path, caplog):
    folder = tmp_path / "exp"
    process = hold(folder)
    caplog.set_level(logging.INFO)
    timer = threading.Timer(0.3, process.stdin.close)
    timer.start()
    started = time.monotonic()
    with locks.hold(folder, wait=True):
        assert 0.2 < time.monotonic() - started < 30
    assert len(re.findall(f"waiting for process {process.pid}", caplog.text)) == 1


def test_partial_files_of_killed_runs_are_removed(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    for name in (".a.17.partial.ark", "sub/.b.17.partial", "other/.c.17.partial", ".hidden", "a.partial"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with locks.hold(tmp_path, parts=("sub", "missing")):
        pass
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert left == [".hidden", "a.partial", "other/.c.17.partial"]
    assert caplog.text.count("left by a run that was killed; removed") == 2


def test_many_processes_hold_a_lock_one_after_the_other(tmp_path):
    program = """
import sys
from pathlib import Path
from adaptkit import locks
folder = Path(sys.argv[1])
for _ in range(50):
    with locks.hold(folder, wait=True):
        counter = folder / "counter"
        before = int(counter.read_text()) if counter.exists() else 0
        counter.write_text(str(before + 1))
"""
    command = [sys.executable, "-c", program, str(tmp_path)]
    processes = [subprocess.Popen(command) for _ in range(4)]
    assert [process.wait() for process in processes] == [0] * 4
    assert (tmp_path / "counter").read_text() == "200"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_folder_without_permission_is_named(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(AdaptkitError, match="permission denied"):
        locks.hold(tmp_path).__enter__()


def test_file_in_place_of_the_folder_is_named(tmp_path):
    (tmp_path / "exp").touch()
    with pytest.raises(AdaptkitError, match=f"{tmp_path}/exp: "):
        locks.hold(tmp_path / "exp").__enter__()
