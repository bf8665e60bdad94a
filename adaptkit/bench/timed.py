"""Time and memory of repeated steps on a device."""

import ctypes
import gc
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from adaptkit.data.batches import Batch
from adaptkit.errors import DataError
from adaptkit.model.adapted import AdaptedModel
from adaptkit.training.optimizer import PerTask, StepSettings
from adaptkit.training.precision import autocast

CLIP_NORM = 5.0
_LR = 1e-6
_CLEAR_PEAK = "5"  # written to clear_refs, resets the peak resident size to the current one (man proc)


@dataclass(frozen=True)
class Cost:
    """Time and memory of one step."""

    name: str
    params_trainable: int
    seconds: float  # median
    peak_mb: float  # above the memory in use before the step, including optimizer state
    ratio: float  # of the seconds to those of the first step in the same rounds; the median
    of_floor: float | None = None  # the same, to its floor


class Meter:
    """Time and peak memory of repeated runs of something on a device."""

    def __init__(self, device: torch.device):
        self.device = device
        self.seconds: list[float] = []
        self.peaks_mb: list[float] = []  # above the memory in use before

    @contextmanager
    def running(self) -> Iterator[None]:
        """Measure the block."""
        gc.collect(1)  # of the last run; all generations would take longer than a small step
        before = _reset_peak_mb(self.device)
        started = now(self.device)
        yield
        self.seconds.append(now(self.device) - started)
        self.peaks_mb.append(_peak_mb(self.device) - before)

    def medians(self) -> tuple[float, float]:
        """Return the median seconds and MiB, without the first run, which is a warm-up."""
        return statistics.median(self.seconds[1:]), statistics.median(self.peaks_mb[1:])

    def ratio(self, other: "Meter") -> float:
        """Return the median of the ratios of the seconds in the same rounds."""
        pairs = list(zip(self.seconds, other.seconds, strict=True))[1:]
        return statistics.median(own / others for own, others in pairs)


@dataclass
class TimedStep:
    """Something to repeat: what it runs, what it trains, and the cost so far."""

    name: str
    run: Callable[[], None]
    meter: Meter
    parameters: Sequence[Tensor] = ()
    state: Callable[[], Iterable[Tensor]] = tuple  # of the optimizer
    floor: str | None = None  # the name of the step that it cannot be faster than

    def step(self) -> None:
        """Run and measure a step."""
        with self.meter.running():
            self.run()

    def cost(self, first: "TimedStep", floor: "TimedStep | None" = None) -> Cost:
        """Return the cost of a step, relative to others of the same rounds."""
        held_mb = sum(tensor.numel() * tensor.element_size() for tensor in self.state()) / 2**20
        seconds, peak_mb = self.meter.medians()
        count = sum(parameter.numel() for parameter in self.parameters)
        of_floor = None if floor is None else self.meter.ratio(floor.meter)
        return Cost(self.name, count, seconds, peak_mb + held_mb, self.meter.ratio(first.meter), of_floor)


def run_rounds(steps: Sequence[TimedStep], num_rounds: int) -> list[Cost]:
    """Run steps in turn, interleaved so that other load affects all alike, and return their costs.

    The first round is a warm-up, which also creates the state of optimizers.
    """
    for _ in range(num_rounds + 1):
        for one in steps:
            one.step()
    by_name = {one.name: one for one in steps}
    return [one.cost(steps[0], one.floor and by_name[one.floor]) for one in steps]


def training_step(
    name: str,
    adapted: AdaptedModel,
    batch: Batch,
    *,
    parts: Sequence[Sequence[int]] = (),
    precision: str = "float32",
) -> TimedStep:
    """Return the step that training takes: forward, backward, clipping and AdamW.

    It covers the whole batch or, with accumulated gradients, one of `parts` of its rows after the other.
    """
    passes, num_rows = [batch.rows(rows) for rows in parts] or [batch], len(batch.utt_ids)
    num_tasks = 0 if adapted.adapters is None else len(adapted.adapters.tasks)
    optimizer = PerTask(adapted.trained, num_tasks, algorithm="adamw", weight_decay=0.0)
    counts = Counter(batch.task_ids)
    settings = {task: StepSettings(count, _LR) for task, count in counts.items()}

    def run() -> None:
        with optimizer.taking(settings):
            with adapted.hooked():
                for part in passes:
                    with autocast(batch.inputs.device, precision):
                        loss = adapted.loss(part).float() * len(part.utt_ids)
                    loss.backward()
            optimizer.normalise(StepSettings(num_rows, _LR), settings)
            optimizer.clip(CLIP_NORM)
            optimizer.step()
            optimizer.zero_grad()

    trained = [*optimizer.owned, *optimizer.shared]
    meter = Meter(batch.inputs.device)
    return TimedStep(name, run, meter, trained, lambda: optimizer.tensors().values())


def forward_step(name: str, adapted: AdaptedModel, batch: Batch, *, precision: str = "float32") -> TimedStep:
    """Return a forward pass with the loss, without gradients."""

    def run() -> None:
        with torch.no_grad(), adapted.hooked(), autocast(batch.inputs.device, precision):
            adapted.loss(batch)

    return TimedStep(name, run, Meter(batch.inputs.device))


def now(device: torch.device) -> float:
    """Return the time, after the device has finished all pending work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _reset_peak_mb(device: torch.device) -> float:
    """Reset the peak memory, and return the memory in use."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device) / 2**20
    if not sys.platform.startswith("linux"):
        raise DataError("peak memory on the CPU is read from Linux's /proc, which is missing here; use a GPU")
    ctypes.CDLL(None).malloc_trim(0)  # else freed memory counts as in use
    Path("/proc/self/clear_refs").write_text(_CLEAR_PEAK)
    return _status_mb("VmRSS")


def _peak_mb(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return _status_mb("VmHWM")


def _status_mb(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 2**10  # KiB
