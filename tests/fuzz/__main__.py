"""Try many inputs and print a table of what they did: `make fuzz N=20000`, or `python -m tests.fuzz 20000`.

Every input has a number, from which it is made: `python -m tests.fuzz --surface audio --only 17` tries one.
Workers are processes of their own with bounded memory; one that does not end in time is killed, and its
input counts as a hang.
"""

import logging
import multiprocessing
import resource
import sys
import tempfile
import time
import warnings
from collections import Counter
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Annotated

import typer

from tests.fuzz.outcome import Kind, Outcome

PATIENCE_SEC = 60  # for one input
MEMORY_MIB = 4096  # that one input may take
SHOWN = 20  # faults


def _work(pipe: Connection, folder: str) -> None:
    """Try the inputs that are asked for, one after the other."""
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    from tests.fuzz import surfaces, world

    made = world.make(Path(folder))
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + (MEMORY_MIB << 20),) * 2)
    pipe.send("ready")
    while (asked := pipe.recv()) is not None:
        surface, seed = asked
        pipe.send(surfaces.SURFACES[surface](made, seed))


class _Worker:
    """A process that tries inputs, and what it is trying."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.start()

    def start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=_work, args=(other, str(self.folder)), daemon=True)
        self.process.start()
        other.close()
        self.asked: tuple[str, int] | None = None
        self.since = time.monotonic()
        self.is_ready = False

    def ask(self, asked: tuple[str, int]) -> None:
        self.pipe.send(asked)
        self.asked, self.since = asked, time.monotonic()

    def finish(self, *, is_late: bool) -> tuple[tuple[str, int] | None, Outcome]:
        """Return what was asked and its outcome; start again after a hang or a death."""
        asked = self.asked
        outcome = Outcome(Kind.HANG, "?", f"no answer in {PATIENCE_SEC} s")
        if not is_late:
            try:
                outcome = self.pipe.recv()
            except EOFError:  # for example for lack of memory
                outcome = Outcome(Kind.TRACEBACK, "?", "the process died")
                if not self.is_ready:
                    raise RuntimeError("a worker cannot be started; see its message above") from None
        if outcome != "ready" and outcome.what == "?":
            self.process.kill()
            self.process.join()
            self.pipe.close()
            self.start()
        else:
            self.is_ready, self.asked = True, None
        return asked, outcome


def _try_all(inputs: list[tuple[str, int]], folder: Path, num_jobs: int) -> dict[tuple[str, int], Outcome]:
    workers = [_Worker(folder / str(number)) for number in range(num_jobs)]
    todo, found = list(reversed(inputs)), {}
    with typer.progressbar(length=len(inputs), label="inputs", file=sys.stderr) as bar:
        while len(found) < len(inputs):
            ready = wait([worker.pipe for worker in workers], timeout=1)
            for worker in workers:
                is_late = worker.asked is not None and time.monotonic() - worker.since > PATIENCE_SEC
                if worker.pipe not in ready and not is_late:
                    continue
                asked, outcome = worker.finish(is_late=worker.pipe not in ready)
                if asked is not None:
                    found[asked] = outcome
                    bar.update(1)
                if worker.is_ready and todo:
                    worker.ask(todo.pop())
    for worker in workers:
        worker.process.kill()
    return found


def _table(found: dict[tuple[str, int], Outcome]) -> str:
    """Format the counts by surface and class as a table in Markdown."""
    counts = Counter((surface, outcome.kind) for (surface, _), outcome in found.items())
    names = sorted({surface for surface, _ in found})
    head = ["surface", "inputs", *(kind.value for kind in Kind)]
    lines = [head, ["---", *["--:"] * (len(head) - 1)]]
    for name in [*names, "all"]:
        each = [sum(n for (s, k), n in counts.items() if k is kind and name in (s, "all")) for kind in Kind]
        lines.append([name, f"{sum(each):,}", *(f"{n:,}" for n in each)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main(
    count: Annotated[int, typer.Argument(metavar="N", min=1, help="The number of inputs.")] = 500,
    seed: Annotated[int, typer.Option(metavar="N", help="The number of the first input.")] = 0,
    surface: Annotated[list[str] | None, typer.Option(help="Try this surface alone; repeatable.")] = None,
    only: Annotated[int | None, typer.Option(metavar="N", help="Try this input alone, and show it.")] = None,
    jobs: Annotated[int, typer.Option(metavar="N", min=1, help="Processes.")] = 2,
) -> None:
    """Try inputs of every surface in turn; the exit code is 1 if any of them shows a fault of adaptkit."""
    from tests.fuzz.surfaces import SURFACES

    names = surface or list(SURFACES)
    inputs = [(names[i % len(names)], seed + i // len(names)) for i in range(count)]
    if only is not None:
        inputs = [(name, only) for name in names]
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        found = _try_all(inputs, Path(folder), min(jobs, len(inputs)))
    faults = {asked: outcome for asked, outcome in found.items() if outcome.kind.is_fault}
    shown = found if only is not None else dict(list(faults.items())[:SHOWN])
    for (name, number), outcome in shown.items():
        typer.echo(f"\n{name} {number}: {outcome.kind.value}: {outcome.what}\n{outcome.detail}")
    typer.echo(f"\n{_table(found)}\n\n{time.monotonic() - started:.0f} s, first input {seed}")
    raise typer.Exit(bool(faults))


if __name__ == "__main__":
    typer.run(main)
