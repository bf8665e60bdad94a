"""Kill every command that writes, and fill its disk, at random times: `make kill N=40`.

A command runs once undisturbed; what it wrote is the reference. Then it is killed (SIGKILL) at a random
moment after it began to write, or its output lies on a disk of random size; run again, with --resume where it
has that, it must end well and leave the same files, bit for bit.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from tests.fuzz import world as worlds
from tests.kill.commands import Command, clear, commands, complete, snapshot

PATIENCE_SEC = 300
OUTCOMES = ("same", "finished before", "differs", "fails again", "left over", "no message")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "1000", "PYTHONDONTWRITEBYTECODE": ""}


def _start(command: Command, *more: str, **options: object) -> subprocess.Popen:
    words = [sys.executable, "-m", "adaptkit", *map(str, command.words), *more]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        words, env=ENVIRONMENT, stdout=pipe, stderr=subprocess.STDOUT, text=True, **options
    )


def _finish(process: subprocess.Popen) -> tuple[int, str]:
    output, _ = process.communicate(timeout=PATIENCE_SEC)
    return process.returncode, output


class _Trials:
    """A command, its reference, and the outcomes of disturbing it."""

    def __init__(self, world: worlds.World, command: Command):
        self.world, self.command = world, command
        clear(world, command)
        process = _start(command)
        self._wait_for_write(process)
        started = time.monotonic()
        code, output = _finish(process)
        self.seconds = time.monotonic() - started  # of writing
        if code:
            raise RuntimeError(f"{command.name} fails undisturbed:\n{output}")
        self.reference = snapshot(command.out)
        self.bytes = sum(path.stat().st_size for path in command.out.rglob("*") if path.is_file())

    def kill(self, rng: random.Random) -> tuple[str, str]:
        """Kill the command at a random moment after it began to write, and run it again.

        Return the outcome and its reason.
        """
        clear(self.world, self.command)
        process = _start(self.command)
        self._wait_for_write(process)
        time.sleep(rng.uniform(0, 1.02) * self.seconds)
        process.send_signal(signal.SIGKILL)
        code, _ = _finish(process)
        return self._run_again(is_finished=code == 0)

    def fill(self, rng: random.Random) -> tuple[str, str]:
        """Give the command a disk that is too small, then one that is large enough."""
        clear(self.world, self.command)
        size = rng.randrange(4096, max(8192, self.bytes))
        with _disk(self.world.folder / "work") as resize:
            self.command.prepare()
            resize(size)
            code, output = _finish(_start(self.command))
            is_said = "the disk is full" in output or "No space left on device" in output
            is_clear = is_said and "Traceback" not in output
            resize(1 << 30)
            if code and not is_clear:
                return "no message", f"{size} free bytes: {output[-2000:]}"
            return self._run_again(is_finished=code == 0)

    def _wait_for_write(self, process: subprocess.Popen) -> None:
        """Wait until the command makes its first file, which is a lock, or ends."""
        work = self.world.folder / "work"
        before = set(work.rglob("*"))
        while process.poll() is None and set(work.rglob("*")) == before:
            time.sleep(0.001)

    def _run_again(self, *, is_finished: bool) -> tuple[str, str]:
        command = self.command
        code, output = _finish(_start(command, *command.resume))
        if code and not (command.name == "adapters fold" and "already contains a base model" in output):
            return "fails again", output[-2000:]
        found = snapshot(command.out)
        hidden = [name for name in found if Path(name).name.startswith(".") and name not in self.reference]
        if hidden:
            return "left over", str(hidden)
        if found != self.reference:
            names = {
                name for name in (*found, *self.reference) if found.get(name) != self.reference.get(name)
            }
            return "differs", str(sorted(names))
        return ("finished before" if is_finished else "same"), ""


@contextmanager
def _disk(folder: Path) -> Iterator[Callable[[int], None]]:
    """Mount a disk on a folder; yield what leaves so many bytes free on it."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1g", "tmpfs", folder], check=True)

    def resize(num_free: int) -> None:
        state = os.statvfs(folder)
        size = (state.f_blocks - state.f_bfree) * state.f_frsize + num_free
        subprocess.run(["mount", "-o", f"remount,size={size}", folder], check=True)

    try:
        yield resize
    finally:
        subprocess.run(["umount", folder], check=True)


def _can_mount() -> bool:
    with tempfile.TemporaryDirectory() as folder:
        words = ["mount", "-t", "tmpfs", "-o", "size=4096", "tmpfs", folder]
        try:
            is_mounted = subprocess.run(words, capture_output=True).returncode == 0
        except OSError:
            return False
        if is_mounted:
            subprocess.run(["umount", folder], check=True)
        return is_mounted


def main(
    count: Annotated[
        int, typer.Argument(metavar="N", min=1, help="The number of kills; half as many disks.")
    ] = 40,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of the moments and sizes.")] = 0,
    only: Annotated[list[str] | None, typer.Option(help="Disturb this command alone; repeatable.")] = None,
) -> None:
    """Kill commands and fill disks; the exit code is 1 unless every second run ends with the same files."""
    folder = Path(tempfile.mkdtemp())
    outcomes: dict[tuple[str, str], Counter] = defaultdict(Counter)
    try:
        world = worlds.make(folder)
        complete(world)
        chosen = [command for command in commands(world) if not only or command.name in only]
        disturbances = ["kill"] * count + (["full disk"] * (count // 2) if _can_mount() else [])
        if len(disturbances) == count:
            typer.echo("no disk can be mounted here (that takes root): kills only", err=True)
        trials: dict[str, _Trials] = {}
        for number, disturbance in enumerate(disturbances):
            command, rng = chosen[number % len(chosen)], random.Random(f"{seed}/{number}")
            if command.name not in trials:
                trials[command.name] = _Trials(world, command)
            trial = trials[command.name]
            outcome, reason = trial.kill(rng) if disturbance == "kill" else trial.fill(rng)
            outcomes[command.name, disturbance][outcome] += 1
            if reason:
                typer.echo(f"{disturbance} {number}, {command.name}: {outcome}: {reason}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    typer.echo(_table(outcomes))
    raise typer.Exit(any(counts[bad] for counts in outcomes.values() for bad in OUTCOMES[2:]))


def _table(outcomes: dict[tuple[str, str], Counter]) -> str:
    head = ["command", "disturbed by", "times", *OUTCOMES]
    lines = [head, ["---", "---", *["--:"] * (len(head) - 2)]]
    for (name, disturbance), counts in sorted(outcomes.items()):
        lines.append(
            [name, disturbance, f"{counts.total()}", *(f"{counts[outcome]}" for outcome in OUTCOMES)]
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    typer.run(main)
