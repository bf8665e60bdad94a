"""Time training steps: adapters against full fine-tuning, on the same batch in one run."""

import copy
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

_CLEAR_PEAK = "5"  # written to clear_refs, it sets the peak resident size back to the present one (man proc)


@dataclass(frozen=True)
class Size:
    """The batch that is timed."""

    num_utterances: int
    seconds: float  # of each utterance
    num_tasks: int
    num_tokens: int = 30


@dataclass(frozen=True)
class StepCost:
    """What one optimiser step costs: forward, backward, clipping and AdamW."""

    name: str
    params_trainable: int
    seconds: float  # median
    peak_mb: float  # above what was held before the step, optimiser state included


def time_steps(
    base: BaseModel, kinds: Sequence[AdapterConfig], size: Size, *, num_steps: int
) -> list[StepCost]:
    """Time full fine-tuning and kinds of adapter in turns, so that what else the machine does hits all alike.

    Full fine-tuning has dropout and batch statistics on, as in training; a frozen base is in eval(). A kind
    that only reads the base is timed twice, with the base's features computed and with them cached.
    """
    batch = _draw_batch(base, size)
    contestants = [Contestant("fine-tuning", AdaptedModel(copy.deepcopy(base)).train(), batch)]
    for entry in kinds:
        contestants += _adapted(base, entry, batch, size.num_tasks)
    for contestant in contestants:
        contestant.step()  # warms up, and makes the optimiser's state
    for _ in range(num_steps):
        for contestant in contestants:
            contestant.step()
    return [contestant.cost() for contestant in contestants]


def _adapted(base: BaseModel, entry: AdapterConfig, batch: Batch, num_tasks: int) -> list["Contestant"]:
    tasks = [f"task{index}" for index in range(num_tasks)]
    adapters = api.build([entry], base.sites, tasks, seed=0).to(batch.inputs.device)
    adapted = AdaptedModel(base, adapters).train()
    contestants = [Contestant(entry.kind, adapted, batch)]
    if adapted.taps:
        with adapted.hooked():
            contestants.append(Contestant(f"{entry.kind}, cached", adapted, adapted.read_taps(batch)))
    return contestants


class Meter:
    """What something cost on a device so far, each time that it was done."""

    def __init__(self, device: torch.device):
        self.device = device
        self.seconds: list[float] = []
        self.peaks_mb: list[float] = []  # of memory, above what was held before

    @contextmanager
    def running(self) -> Iterator[None]:
        """Measure what the block does."""
        gc.collect()
        before = _reset_peak_mb(self.device)
        started = now(self.device)
        yield
        self.seconds.append(now(self.device) - started)
        self.peaks_mb.append(_peak_mb(self.device) - before)

    def medians(self) -> tuple[float, float]:
        """Give the median seconds and megabytes, without the first time, which warms up."""
        return statistics.median(self.seconds[1:]), statistics.median(self.peaks_mb[1:])


class Contestant:
    """An adapted with its optimiser, and what its steps cost so far."""

    def __init__(self, name: str, adapted: AdaptedModel, batch: Batch, parts: Sequence[Sequence[int]] = ()):
        """Take rows of the batch in parts, whose gradients add up, or the whole at once."""
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
        """Give what a step costs."""
        slots = sum(t.numel() * t.element_size() for s in self.optimizer.state.values() for t in s.values())
        count = sum(parameter.numel() for parameter in self.parameters)
        seconds, peak_mb = self.meter.medians()
        return StepCost(self.name, count, seconds, peak_mb + slots / 2**20)


def _draw_batch(base: BaseModel, size: Size) -> Batch:
    """Draw utterances of one length, which go round the tasks."""
    device = next(base.model.parameters()).device
    lengths = torch.full((size.num_utterances,), count_inputs(base, size.seconds), device=device)
    task_ids = [row % size.num_tasks for row in range(size.num_utterances)]
    return draw_batch(base, lengths, torch.full_like(lengths, size.num_tokens), task_ids)


def now(device: torch.device) -> float:
    """Read the clock once the device has done everything asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def _reset_peak_mb(device: torch.device) -> float:
    """Forget the peak of memory so far and give what is held now."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated() / 2**20
    if not sys.platform.startswith("linux"):
        raise DataError("peak memory of a step on the CPU is read from Linux's /proc, which is not here")
    ctypes.CDLL(None).malloc_trim(0)  # else memory that was freed counts as held
    Path("/proc/self/clear_refs").write_text(_CLEAR_PEAK)
    return _status_mb("VmRSS")


def _peak_mb(device: torch.device) -> float:
    return torch.cuda.max_memory_allocated() / 2**20 if device.type == "cuda" else _status_mb("VmHWM")


def _status_mb(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 2**10  # KiB
