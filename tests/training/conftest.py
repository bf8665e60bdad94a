"""Trainings as commands, and what they leave in folders."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from adaptkit.tensors import read_tensors


@pytest.fixture(scope="session")
def kill_at():
    """Run a command of adaptkit and kill it as soon as the journal of its folder holds a step."""

    def run(step, folder, *words):
        journal, command = folder / "train.jsonl", [Path(sys.executable).with_name("adaptkit"), *words]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as process:
            while process.poll() is None:
                if journal.exists() and f'"step": {step},' in journal.read_text():
                    process.kill()
                with suppress(subprocess.TimeoutExpired):
                    process.wait(0.02)
            assert process.returncode == -signal.SIGKILL, process.stdout.read().decode()

    return run


@pytest.fixture(scope="session")
def content():
    """Give every file of a folder with its bytes."""
    return lambda folder: {str(p): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="session")
def tensors_in():
    """Give the tensors of a run's saved state."""
    return lambda folder: read_tensors(folder / "state.safetensors")[0]
