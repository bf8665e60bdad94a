"""The processor time and memory that a run takes, over all of its processes, before and after a resume."""

import os
import time
from dataclasses import replace

from adaptkit import provenance
from adaptkit.training.distributed import of_each
from adaptkit.training.state import State

_counted: dict[int, float] = {}  # seconds of processor time that the state of a run has already, by process


def with_spent(state: State) -> State:
    """Add what was spent since the last call, in this process and those beside it under `torchrun`.

    All of them call it. The first call counts from the start of the process; what a killed process spent
    after its last save is lost.
    """
    process, now = os.getpid(), time.process_time()
    spent = of_each((now - _counted.get(process, 0.0), provenance.peak_memory_mb()))
    _counted[process] = now
    return replace(
        state,
        cpu_seconds=state.cpu_seconds + sum(seconds for seconds, _ in spent),
        peak_mb=max(state.peak_mb, *(peak for _, peak in spent)),
    )
