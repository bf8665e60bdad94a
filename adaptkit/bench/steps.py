"""Time training steps of adapters and of full fine-tuning, on the same batch in one run."""

import ctypes
import gc
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from adaptkit.adapters import api
from adaptkit.adapters.api import AdapterConfig
from adaptkit.base.checkpoint import BaseModel
from adaptkit.bench.batch import count_inputs, draw_batch
from adaptkit.data.batches import Batch
from adaptkit.errors import DataError
from adaptkit.model.adapted import AdaptedModel

_CLEAR_PEAK = "5"  # written to clear_refs, resets the peak resident size to the current one (man proc)


@dataclass(frozen=True)
class Size:
    """The size of the batch to time."""

    num_utterances: int
    seconds: float  # of each utterance
    num_tasks: int
    num_tokens: int = 30


@dataclass(frozen=True)
class StepCost:
    """Time and memory of one optimizer step: forward, backward, clipping and AdamW."""

    name: str
    params_trainable: int
    seconds: float  # median
    peak_mb: float  # above the memory in use before the step, including optimizer state


def time_steps(
    base: BaseModel, kinds: Sequence[AdapterConfig], size: Size, *, num_steps: int
) -> list[StepCost]:
    """Time full fine-tuning and adapter types, interleaved so that other load affects all alike.

    Full fine-tuning uses dropout and batch statistics, as in training; a frozen base is in eval(). An adapter
    type that only reads encoder outputs is timed twice, with these computed and with these cached.
    """
    batch = _draw_batch(base, size)
    timed = [TimedModel("fine-tuning", AdaptedModel(base).train(), batch)]
    for entry in kinds:
        timed += _adapted(base, entry, batch, size.num_tasks)
    for one in timed:
        one.step()  # warm-up, which also creates the optimizer state
    for _ in range(num_steps):
        for one in timed:
            one.step()
    return [one.cost() for one in timed]


def _adapted(base: BaseModel, entry: AdapterConfig, batch: Batch, num_tasks: int) -> list["TimedModel"]:
    tasks = [f"task{index}" for index in range(num_tasks)]
    adapters = api.build([entry], base.sites, tasks, seed=0).to(batch.inputs.device)
    adapted = AdaptedModel(base, adapters).train()
    timed = [TimedModel(entry.kind, adapted, batch)]
    if adapted.taps:
        with adapted.hooked():
            timed.append(TimedModel(f"{entry.kind}, cached", adapted, adapted.read_taps(batch)))
    return timed


class Meter:
    """Time and peak memory of repeated runs of something on a device."""

    def __init__(self, device: torch.device):
        self.device = device
        self.seconds: list[float] = []
        self.peaks_mb: list[float] = []  # above the memory in use before

    @contextmanager
    def running(self) -> Iterator[None]:
        """Measure the block."""
        gc.collect()
        before = _reset_peak_mb(self.device)
        started = now(self.device)
        yield
        self.seconds.append(now(self.device) - started)
        self.peaks_mb.append(_peak_mb(self.device) - before)

    def medians(self) -> tuple[float, float]:
        """Return the median seconds and MiB, without the first run, which is a warm-up."""
        return statistics.median(self.seconds[1:]), statistics.median(self.peaks_mb[1:])


class TimedModel:
    """A model with its optimizer, and the cost of its steps so far."""

    def __init__(self, name: str, adapted: AdaptedModel, batch: Batch, parts: Sequence[Sequence[int]] = ()):
        """Set up steps over the whole batch or, with accumulated gradients, over `parts` of its rows."""
        self.name, self.adapted = name, adapted
        self.parts = [batch.rows(rows) for rows in parts] or [batch]
        self.num_rows = len(batch.utt_ids)
        self.parameters = [p for p in adapted.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-6)
        self.meter = Meter(batch.inputs.device)

    def step(self) -> None:
        """Take a step: forward, backward, clipping and AdamW."""
        with self.meter.running():
            with self.adapted.hooked():
                for part in self.parts:
                    (self.adapted.loss(part) * (len(part.utt_ids) / self.num_rows)).backward()
            nn.utils.clip_grad_norm_(self.parameters, 5.0)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)

    def cost(self) -> StepCost:
        """Return the cost of a step."""
        slots = sum(t.numel() * t.element_size() for s in self.optimizer.state.values() for t in s.values())
        count = sum(parameter.numel() for parameter in self.parameters)
        seconds, peak_mb = self.meter.medians()
        return StepCost(self.name, count, seconds, peak_mb + slots / 2**20)


def _draw_batch(base: BaseModel, size: Size) -> Batch:
    """Draw utterances of equal length, assigned to the tasks in turn."""
    device = next(base.model.parameters()).device
    lengths = torch.full((size.num_utterances,), count_inputs(base, size.seconds), device=device)
    task_ids = [row % size.num_tasks for row in range(size.num_utterances)]
    return draw_batch(base, lengths, torch.full_like(lengths, size.num_tokens), task_ids)


def now(device: torch.device) -> float:
    """Return the time, after the device has finished all pending work."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def _reset_peak_mb(device: torch.device) -> float:
    """Reset the peak memory, and return the memory in use."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated() / 2**20
    if not sys.platform.startswith("linux"):
        raise DataError("peak memory on the CPU is read from Linux's /proc, which is missing here; use a GPU")
    ctypes.CDLL(None).malloc_trim(0)  # else freed memory counts as in use
    Path("/proc/self/clear_refs").write_text(_CLEAR_PEAK)
    return _status_mb("VmRSS")


def _peak_mb(device: torch.device) -> float:
    return torch.cuda.max_memory_allocated() / 2**20 if device.type == "cuda" else _status_mb("VmHWM")


def _status_mb(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 2**10  # KiB
