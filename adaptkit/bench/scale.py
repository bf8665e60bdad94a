"""Measure how the cost of training grows with the number of speakers.

Everything is as in a real run: the plan of an epoch, the steps, a validation in mixed batches and a save of
the state. The model has random weights, and all utterances share the features of a few, since the cost does
not depend on the content. Each number of speakers is measured in a process of its own, so that its peak
memory is its own.
"""

import random
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import torch

from adaptkit.adapters import api
from adaptkit.adapters.api import AdapterConfig, AdapterStack
from adaptkit.base import create
from adaptkit.base.checkpoint import BaseModel
from adaptkit.bench.batch import draw_inputs
from adaptkit.bench.timed import Meter, now
from adaptkit.data.dataset import Examples
from adaptkit.errors import ConfigError
from adaptkit.features.archive import write_archive
from adaptkit.folders import RunFolder
from adaptkit.kaldi.datadir import DataDir, Utterance
from adaptkit.model import checkpoint
from adaptkit.model.adapted import AdaptedModel
from adaptkit.provenance import peak_memory_mb
from adaptkit.records import Effort, RecordedModel, write_record
from adaptkit.training.loop import Loop
from adaptkit.training.plan import Plan
from adaptkit.training.state import State
from adaptkit.training_options import AdapterTraining

_NUM_DRAWN = 64  # utterances whose features all others share
_TEXT = "token1 token2 token3 token4 token5"
_NUM_WARM_UP = 3  # steps


@dataclass(frozen=True)
class Workload:
    """What is trained: a model with random weights, adapters, and the utterances of each speaker."""

    model: Path  # ESPnet's training yaml
    adapter: AdapterConfig
    num_utterances: int = 24  # of each speaker
    batch_frames: int = 12000
    num_steps: int = 20  # to time
    num_validated: int = 256  # utterances of the validation set, at least; one of each speaker
    frames: tuple[int, int] = (100, 400)  # of the shortest and of the longest utterance
    valid_frames: tuple[int, int] = (50, 80)  # likewise, in validation


@dataclass(frozen=True)
class ScaleCost:
    """The costs of training for a number of speakers."""

    num_speakers: int
    params_per_speaker: int
    plan_seconds: float  # of an epoch; CPU time
    step_ms: float  # for an utterance; median of steps; on a CPU, the time of the CPU
    valid_ms: float  # for an utterance, likewise
    pause_seconds: float  # in which training waits for a save
    save_seconds: float  # until the state is on disk
    save_mb: float  # MiB that a save takes beside the memory of training
    peak_mb: float  # MiB, of the process
    state_mb: float
    adapter_mb: float
    record_kb: float  # run.json
    journal_kb: float  # the line of a validation in train.jsonl


def measure_each(work: Workload, counts: Sequence[int], device: str) -> Iterator[ScaleCost]:
    """Measure each of several numbers of speakers in a process of its own, one after the other."""
    if len(counts) == 1:
        yield measure(work, counts[0], device)
        return
    for count in counts:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            yield pool.submit(measure, work, count, device).result()


def measure(work: Workload, num_speakers: int, device: str) -> ScaleCost:
    """Measure a number of speakers in this process."""
    with tempfile.TemporaryDirectory() as place, ExitStack() as stack:
        folder = Path(place)
        base = create.untrained(work.model).to(device)
        num_valid = -(-work.num_validated // num_speakers)
        train = make_examples(base, folder / "train", num_speakers, work.num_utterances, work.frames)
        valid = make_examples(base, folder / "valid", num_speakers, num_valid, work.valid_frames)
        tasks = train.data.tasks
        adapters = api.build([work.adapter], base.sites, tasks, seed=0).to(device)
        plan = _plan(work, train, valid, folder / "exp", adapters)
        loop = Loop(AdaptedModel(base, adapters), plan)
        started = time.process_time()
        steps = plan.steps(adapters).of_epoch(0)
        plan_seconds = time.process_time() - started
        stack.enter_context(loop.adapted.hooked())
        stack.enter_context(loop.log)
        started = _now(loop.device)
        loop.start()
        valid_seconds = _now(loop.device) - started
        step_ms = _time_steps(loop, steps, work.num_steps)
        pause, whole, save_mb = _time_save(loop)
        plan.write(adapters.state_dict(), loop.state)
        plan.finish(loop.state)
        files = RunFolder(plan.folder)
        lines = files.log.read_text().splitlines()
        return ScaleCost(
            num_speakers,
            adapters.num_per_task,
            plan_seconds,
            step_ms,
            1000 * valid_seconds / len(valid),
            pause,
            whole,
            save_mb,
            peak_memory_mb(),
            files.state.stat().st_size / 2**20,
            files.adapter.stat().st_size / 2**20,
            files.record.stat().st_size / 2**10,
            max(len(line) for line in lines if '"event": "valid"' in line) / 2**10,
        )


def make_examples(
    base: BaseModel, folder: Path, num_speakers: int, num_each: int, frames: tuple[int, int]
) -> Examples:
    """Make utterances of speakers whose features are those of a few, in an archive in a folder."""
    if base.features is None:
        raise ConfigError(f"{base.path}: reads speech; choose a model that reads features (input_size)")
    generator, noise = random.Random(0), torch.Generator().manual_seed(0)
    drawn = [generator.randint(*frames) for _ in range(_NUM_DRAWN)]
    rows = (draw_inputs(base, 1, length, noise)[0].numpy() for length in drawn)
    archive = folder / "feats.ark"
    write_archive(archive, ((f"drawn{k:02}", row) for k, row in enumerate(rows)), made_of="noise")
    places, offset = [], 0
    for k, length in enumerate(drawn):
        offset += len(f"drawn{k:02} ")
        places.append(f"{archive}:{offset}")
        offset += _entry_bytes(length, int(base.features["num_bins"]))
    chosen = [generator.randrange(_NUM_DRAWN) for _ in range(num_speakers * num_each)]
    names = [f"spk{k // num_each:06}" for k in range(len(chosen))]
    ids = [f"{name}-{k % num_each:04}" for k, name in enumerate(names)]
    utterances = tuple(Utterance(u, name, u, _TEXT) for u, name in zip(ids, names, strict=True))
    feats = {utt_id: places[k] for utt_id, k in zip(ids, chosen, strict=True)}
    data = DataDir(folder, utterances, {}, feats)
    numbers = {task: index for index, task in enumerate(data.tasks)}
    return Examples(data, base, tuple(drawn[k] for k in chosen), numbers)


def _entry_bytes(num_frames: int, num_bins: int) -> int:
    """Return the size of a Kaldi matrix: a mark, its type, two sizes and the numbers."""
    return len(b"\0BFM ") + 2 * len(b"\4    ") + 4 * num_frames * num_bins


def _plan(work: Workload, train: Examples, valid: Examples, folder: Path, adapters: AdapterStack) -> Plan:
    options = AdapterTraining(
        batch_frames=work.batch_frames, valid_metric="wer", warmup_steps=0, lr=1e-4, max_epochs=1
    )

    def finish(state: State) -> None:
        counts = (adapters.num_parameters, adapters.num_per_task)
        kept = state.list_unimproved(adapters.tasks)
        made = RecordedModel("scale", adapters.kind, adapters.tasks, *counts, kept, "wer")
        params = train.base.num_parameters
        write_record(folder, made, base_fingerprint="", params_base=params, device="cpu", effort=Effort())

    def write(weights: dict[str, torch.Tensor], state: State) -> None:
        checkpoint.save(RunFolder(folder).adapter, adapters, "", state.step, weights)

    return Plan(train, valid, folder, options, {}, write, finish)


def _time_steps(loop: Loop, steps: Sequence[list[list[int]]], num_steps: int) -> float:
    """Return the milliseconds per utterance of steps spread over an epoch."""
    stride = max(1, len(steps) // (num_steps + _NUM_WARM_UP))
    chosen, taken, started = steps[::stride][: num_steps + _NUM_WARM_UP], [], 0.0

    def advance(count: int, note: str) -> None:
        taken.append(_now(loop.device) - started)

    for number, step in enumerate(chosen):
        started = _now(loop.device)
        loop.run_steps([*chosen[:number], step], advance)
    sizes = [sum(map(len, step)) for step in chosen]
    timed = list(zip(taken, sizes, strict=True))[min(_NUM_WARM_UP, len(taken) - 1) :]
    return 1000 * statistics.median(seconds / size for seconds, size in timed)


def _now(device: torch.device) -> float:
    """Return the time; on a CPU, the CPU time of this process, as others may be busy."""
    return now(device) if device.type == "cuda" else time.process_time()


def _time_save(loop: Loop) -> tuple[float, float, float]:
    """Return the seconds that training waits for a save, the seconds until it is on disk, and its memory."""
    meter = Meter(loop.device)
    with meter.running():
        started = time.perf_counter()
        loop.save()
        pause = time.perf_counter() - started
        loop.saved.wait()
    return pause, meter.seconds[0], max(0.0, meter.peaks_mb[0])


def reference(costs: Sequence[ScaleCost]) -> ScaleCost:
    """Return the costs that others are compared with: those for 8 speakers, otherwise the first."""
    return next((cost for cost in costs if cost.num_speakers == 8), costs[0])
