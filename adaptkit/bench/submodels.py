"""Time decoding with a different Submodel for every row: in one mixed batch, and row by row."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from adaptkit.adapters import api
from adaptkit.adapters.api import AdapterConfig, AdapterStack
from adaptkit.base.checkpoint import BaseModel
from adaptkit.bench.batch import count_inputs, draw_inputs, make_batch
from adaptkit.bench.peft import PeftModel
from adaptkit.bench.timed import now
from adaptkit.data.batches import Batch
from adaptkit.errors import AdaptkitError, listed
from adaptkit.model.adapted import AdaptedModel
from adaptkit.training.precision import autocast

BASE = "base alone"
MIXED = "mixed"
HALF_BASE = "mixed, half base"
LOOP = "one by one"
PEFT_MIXED = "PEFT, mixed"
PEFT_LOOP = "PEFT, one by one"

STD = 0.05  # of the weights of random Submodels: large enough to change results, without overflow
TOLERANCE = 1e-3  # relative to the largest encoder output; methods differ by about 1e-5 in float32


@dataclass(frozen=True)
class Load:
    """The batch to decode: a row for every speaker, all of equal length."""

    num_speakers: int
    seconds: float


@dataclass(frozen=True)
class DecodingCost:
    """The time of decoding the batch with one method."""

    name: str
    precision: str
    seconds: float  # median
    ratio: float  # to the base model alone; median of the ratios of the rounds


@dataclass(frozen=True)
class DecodingMethod:
    """A method of decoding rows: the batches, and a function to call before each with its number."""

    name: str
    adapted: AdaptedModel
    batches: Sequence[Batch]
    prepare: Callable[[int], None] = lambda number: None

    def encode(self) -> Tensor:
        """Return the encoder output of all rows (B, U, D)."""
        with torch.inference_mode(), self.adapted.hooked():
            found = []
            for number, batch in enumerate(self.batches):
                self.prepare(number)
                found.append(self.adapted.encode(batch)[0])
        return torch.cat(found)

    def time(self) -> float:
        """Time the encoder and greedy search, in seconds."""
        device = self.batches[0].inputs.device
        with torch.inference_mode(), self.adapted.hooked():
            started = now(device)
            for number, batch in enumerate(self.batches):
                self.prepare(number)
                self.adapted.recognise(batch)
            return now(device) - started


def time_decoding(
    base: BaseModel,
    entry: AdapterConfig,
    load: Load,
    *,
    num_rounds: int,
    has_peft: bool = False,
    precisions: Sequence[str] = ("float32",),
) -> list[DecodingCost]:
    """Time the methods of decoding a batch, interleaved so that other load affects all alike.

    First their outputs in float32 are checked to be the same, which is also the warm-up. `has_peft` adds PEFT
    with the same LoRA weights.
    """
    adapters = random_submodels(base, entry, [f"spk{k}" for k in range(load.num_speakers)])
    batch = make_batch(base, make_rows(base, load), range(load.num_speakers))
    methods = _our_methods(base, adapters, batch)
    if has_peft:
        methods += _peft_methods(base, adapters, batch)
    check_same(methods)
    costs = []
    for precision in precisions:
        seconds: dict[str, list[float]] = {method.name: [] for method in methods}
        for _ in range(num_rounds):
            for method in methods:
                with autocast(batch.inputs.device, precision):
                    seconds[method.name].append(method.time())
        costs += [_cost(name, precision, taken, seconds[BASE]) for name, taken in seconds.items()]
    return costs


def check_same(methods: Sequence[DecodingMethod]) -> None:
    """Refuse methods whose outputs differ, and Submodels that change nothing."""
    half = next(method for method in methods if method.name == HALF_BASE).batches[0].task_ids
    encoded = {method.name: method.encode() for method in methods}
    bare, own = encoded.pop(BASE), encoded.pop(MIXED)
    is_base = torch.tensor(half, device=own.device)[:, None, None] < 0
    for name, x in encoded.items():
        expected = torch.where(is_base, bare, own) if name == HALF_BASE else own
        wrong = _distances(x, expected) > TOLERANCE
        if bool(wrong.any()):
            raise AdaptkitError(
                f"'{name}' and '{MIXED}' differ in rows "
                f"{listed(map(str, wrong.nonzero().flatten().tolist()))}, so their times cannot be compared; "
                "check the base model for nan, otherwise report this"
            )
    unchanged = _distances(own, bare) <= TOLERANCE
    if bool(unchanged.any()):
        raise AdaptkitError(
            f"{int(unchanged.sum())} of {len(own)} random Submodels change nothing, so a mix-up would go "
            "unnoticed; use larger sizes with --set"
        )


def random_submodels(base: BaseModel, entry: AdapterConfig, tasks: Sequence[str]) -> AdapterStack:
    """Build adapters for a list of tasks with random weights in place of the zero initialisation."""
    adapters = api.build([entry], base.sites, tasks, seed=None)
    generator = torch.Generator().manual_seed(0)
    for parameter in adapters.parameters():
        parameter.data.normal_(0.0, STD, generator=generator)
    return adapters.to(next(base.model.parameters()).device).eval().requires_grad_(False)


def make_rows(base: BaseModel, load: Load) -> list[Tensor]:
    """Draw noise as input for each speaker: features (T, F) or speech (N,)."""
    generator = torch.Generator().manual_seed(0)
    return list(draw_inputs(base, load.num_speakers, count_inputs(base, load.seconds), generator))


def _our_methods(base: BaseModel, adapters: AdapterStack, batch: Batch) -> list[DecodingMethod]:
    bare = AdaptedModel(base, is_frozen=True).eval()
    adapted = AdaptedModel(base, adapters).eval()
    half = replace(batch, task_ids=tuple(task if task % 2 else -1 for task in batch.task_ids))
    return [
        DecodingMethod(BASE, bare, [batch]),
        DecodingMethod(MIXED, adapted, [batch]),
        DecodingMethod(HALF_BASE, adapted, [half]),
        DecodingMethod(LOOP, adapted, [batch.rows([row]) for row in range(len(batch.utt_ids))]),
    ]


def _peft_methods(base: BaseModel, adapters: AdapterStack, batch: Batch) -> list[DecodingMethod]:
    """Return PEFT's mixed batches, and a loop over rows with `set_adapter`."""
    peft = PeftModel(base, adapters)
    rows = [batch.rows([row]) for row in range(len(batch.utt_ids))]
    return [
        DecodingMethod(PEFT_MIXED, peft.adapted, [batch], peft.mix),
        DecodingMethod(PEFT_LOOP, peft.adapted, rows, peft.activate),
    ]


def _distances(x: Tensor, y: Tensor) -> Tensor:
    """Return the largest difference of each row, relative to the largest value; infinite for nan."""
    distance = (x - y).abs().flatten(1).amax(dim=1) / y.abs().amax()
    return distance.nan_to_num(nan=torch.inf)


def _cost(name: str, precision: str, seconds: Sequence[float], bare: Sequence[float]) -> DecodingCost:
    ratios = [own / other for own, other in zip(seconds, bare, strict=True)]
    return DecodingCost(name, precision, statistics.median(seconds), statistics.median(ratios))
