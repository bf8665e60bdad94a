"""Time training steps of adapters, full fine-tuning and other toolkits on the same batch in one run."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch

from adaptkit.adapters import api
from adaptkit.adapters.api import AdapterConfig
from adaptkit.adapters.site import Site
from adaptkit.base.checkpoint import BaseModel
from adaptkit.bench.batch import count_inputs, draw_batch
from adaptkit.bench.floors import Floor, find_floor
from adaptkit.bench.peers import espnet_step, peft_steps
from adaptkit.bench.timed import Cost, TimedStep, forward_step, run_rounds, training_step
from adaptkit.data.batches import Batch
from adaptkit.errors import ConfigError
from adaptkit.model.adapted import AdaptedModel

FULL = "fine-tuning"


@dataclass(frozen=True)
class Size:
    """The size of the batch to time."""

    num_utterances: int
    seconds: float  # of each utterance
    num_tasks: int
    num_tokens: int = 30


def time_steps(
    base: BaseModel,
    kinds: Sequence[AdapterConfig],
    size: Size,
    *,
    num_steps: int,
    precision: str = "float32",
    has_peers: bool = False,
) -> list[Cost]:
    """Time full fine-tuning, floors, adapter types and, with `has_peers`, ESPnet's trainer and PEFT.

    Full fine-tuning uses dropout and batch statistics, as in training; a frozen base is in eval(). An adapter
    type that only reads encoder outputs is timed twice, with these computed and with these cached. The floor
    of an adapter type is the least that its place in the model allows: see `floors`.
    """
    batch = draw_steps_batch(base, size)
    adapted = [one for entry in kinds for one in _adapted(base, entry, batch, size.num_tasks, precision)]
    first = [training_step(FULL, AdaptedModel(base).train(), batch, precision=precision)]
    floors = {floor.name: floor for _, floor in adapted if floor} | {Floor(None).name: Floor(None)}
    peers = []
    if has_peers:
        first.append(espnet_step(base, batch, precision=precision))
        lora = next((entry for entry in kinds if entry.kind == "lora"), None)
        if lora is None:
            raise ConfigError("PEFT is compared with our LoRA; add an adapter of type lora")
        peers = peft_steps(base, lora, batch, size.num_tasks, precision=precision)
    steps = [*first, *_floors(base, floors.values(), batch, precision), *(one for one, _ in adapted), *peers]
    return run_rounds(steps, num_steps)


def in_upper_half(entry: AdapterConfig, sites: Sequence[Site]) -> AdapterConfig | None:
    """Return the same adapters in the upper half of the blocks alone; None for a type without `blocks`."""
    blocks = sorted({site.block for site in sites if site.kind == "block"})
    options = entry.model_dump()
    if "blocks" not in options or len(blocks) < 2:
        return None
    return entry.model_copy(update={"blocks": tuple(blocks[len(blocks) // 2 :])})


def draw_steps_batch(base: BaseModel, size: Size) -> Batch:
    """Draw utterances of equal length, assigned to the tasks in turn."""
    device = next(base.model.parameters()).device
    lengths = torch.full((size.num_utterances,), count_inputs(base, size.seconds), device=device)
    task_ids = [row % size.num_tasks for row in range(size.num_utterances)]
    return draw_batch(base, lengths, torch.full_like(lengths, size.num_tokens), task_ids)


def _adapted(
    base: BaseModel, entry: AdapterConfig, batch: Batch, num_tasks: int, precision: str
) -> list[tuple[TimedStep, Floor | None]]:
    tasks = [f"task{index}" for index in range(num_tasks)]
    adapters = api.build([entry], base.sites, tasks, seed=0).to(batch.inputs.device)
    adapted, name = AdaptedModel(base, adapters).train(), describe(entry)
    floor = find_floor(adapted, batch)
    step = training_step(name, adapted, batch, precision=precision)
    timed: list[tuple[TimedStep, Floor | None]] = [(replace(step, floor=floor.name), floor)]
    if adapted.taps:
        with adapted.hooked():
            read = adapted.read_taps(batch)
        timed.append((training_step(f"{name}, cached", adapted, read, precision=precision), None))
    return timed


def describe(entry: AdapterConfig) -> str:
    """Return the adapter type, with its blocks if they are chosen."""
    blocks = entry.model_dump().get("blocks")
    return entry.kind if blocks is None else f"{entry.kind}, blocks {','.join(map(str, blocks))}"


def _floors(base: BaseModel, floors: Iterable[Floor], batch: Batch, precision: str) -> list[TimedStep]:
    """Return the steps of floors, the least first."""
    ordered = sorted(floors, key=lambda floor: -len(base.sites) if floor.site is None else 0)
    make = {True: forward_step, False: training_step}
    return [
        make[floor.site is None](floor.name, floor.adapted(base), batch.of_task(0), precision=precision)
        for floor in ordered
    ]
