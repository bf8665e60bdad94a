"""Time decoding with a Submodel of its own for every row: in one mixed batch, and one after the other."""

import copy
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from adaptkit.adapters import api
from adaptkit.adapters.api import AdapterConfig, AdapterStack
from adaptkit.base.checkpoint import BaseModel
from adaptkit.bench.batch import count_inputs, draw_inputs, make_batch
from adaptkit.bench.steps import now
from adaptkit.data.batches import Batch
from adaptkit.errors import AdaptkitError, ConfigError, listed
from adaptkit.model.adapted import AdaptedModel

BASE = "base alone"
MIXED = "mixed"
HALF_BASE = "mixed, half base"
LOOP = "one by one"
PEFT_MIXED = "PEFT, mixed"
PEFT_LOOP = "PEFT, one by one"

STD = 0.05  # of the weights of random Submodels: what is decoded changes, and nothing overflows
TOLERANCE = 1e-3  # of the largest number that leaves the encoder; ways differ by about 1e-5 of it in float32


@dataclass(frozen=True)
class Load:
    """The batch that is decoded: a row for every speaker, all of one length."""

    num_speakers: int
    seconds: float


@dataclass(frozen=True)
class Cost:
    """What decoding the batch takes in one way."""

    name: str
    seconds: float  # median
    ratio: float  # to the base alone; median of the rounds' own


@dataclass(frozen=True)
class Way:
    """A way to decode rows: batches of them, and what is done before each, by its number."""

    name: str
    adapted: AdaptedModel
    batches: Sequence[Batch]
    prepare: Callable[[int], None] = lambda number: None

    def encode(self) -> Tensor:
        """Give what leaves the encoder for all rows, x (B, U, D)."""
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
    base: BaseModel, entry: AdapterConfig, load: Load, *, num_rounds: int, has_peft: bool = False
) -> list[Cost]:
    """Time the ways to decode a batch, in turns, so that what else the machine does hits all alike.

    What they give is held to be the same first, which warms up too. `has_peft` adds PEFT with the same
    weights of LoRA.
    """
    adapters = random_submodels(base, entry, [f"spk{k}" for k in range(load.num_speakers)])
    batch = make_batch(base, make_rows(base, load), range(load.num_speakers))
    ways = _our_ways(base, adapters, batch)
    if has_peft:
        ways += _ways_of_peft(base, adapters, batch)
    check_same(ways)
    seconds: dict[str, list[float]] = {way.name: [] for way in ways}
    for _ in range(num_rounds):
        for way in ways:
            seconds[way.name].append(way.time())
    return [_cost(name, taken, seconds[BASE]) for name, taken in seconds.items()]


def check_same(ways: Sequence[Way]) -> None:
    """Refuse to time ways that do not give the same, or Submodels that change nothing."""
    half = next(way for way in ways if way.name == HALF_BASE).batches[0].task_ids
    encoded = {way.name: way.encode() for way in ways}
    bare, own = encoded.pop(BASE), encoded.pop(MIXED)
    is_base = torch.tensor(half, device=own.device)[:, None, None] < 0
    for name, x in encoded.items():
        expected = torch.where(is_base, bare, own) if name == HALF_BASE else own
        wrong = _distances(x, expected) > TOLERANCE
        if bool(wrong.any()):
            raise AdaptkitError(
                f"'{name}' gives rows {listed(map(str, wrong.nonzero().flatten().tolist()))} otherwise than "
                f"'{MIXED}', so their times cannot be compared; look for nan in the base model, else report"
            )
    unchanged = _distances(own, bare) <= TOLERANCE
    if bool(unchanged.any()):
        raise AdaptkitError(
            f"{int(unchanged.sum())} of {len(own)} random Submodels change nothing, so that a wrong one "
            "would not be seen; take larger sizes with --set"
        )


def random_submodels(base: BaseModel, entry: AdapterConfig, tasks: Sequence[str]) -> AdapterStack:
    """Build adapters for a list of tasks with random weights everywhere, none at zero as at birth."""
    adapters = api.build([entry], base.sites, tasks, seed=None)
    generator = torch.Generator().manual_seed(0)
    for parameter in adapters.parameters():
        parameter.data.normal_(0.0, STD, generator=generator)
    return adapters.to(next(base.model.parameters()).device).eval().requires_grad_(False)


def make_rows(base: BaseModel, load: Load) -> list[Tensor]:
    """Draw noise for each speaker: features (T, F), or speech (N,)."""
    generator = torch.Generator().manual_seed(0)
    return list(draw_inputs(base, load.num_speakers, count_inputs(base, load.seconds), generator))


def _our_ways(base: BaseModel, adapters: AdapterStack, batch: Batch) -> list[Way]:
    bare = AdaptedModel(base).eval()
    adapted = AdaptedModel(base, adapters).eval()  # freezes the base again
    half = replace(batch, task_ids=tuple(task if task % 2 else -1 for task in batch.task_ids))
    return [
        Way(BASE, bare, [batch]),
        Way(MIXED, adapted, [batch]),
        Way(HALF_BASE, adapted, [half]),
        Way(LOOP, adapted, [batch.rows([row]) for row in range(len(batch.utt_ids))]),
    ]


def _ways_of_peft(base: BaseModel, adapters: AdapterStack, batch: Batch) -> list[Way]:
    """Give PEFT's own mixed batch, and the loop over `set_adapter` of those who do without."""
    peft = _Peft(base, adapters)
    adapted = AdaptedModel(replace(base, model=peft.model)).eval()
    rows = [batch.rows([row]) for row in range(len(batch.utt_ids))]
    return [
        Way(PEFT_MIXED, adapted, [batch], peft.mix),
        Way(PEFT_LOOP, adapted, rows, peft.activate),
    ]


class _Peft:
    """A copy of a base whose encoder is PEFT's, with the same matrices for each task."""

    def __init__(self, base: BaseModel, adapters: AdapterStack):
        if adapters.kind != "lora":
            raise ConfigError(
                f"PEFT has no adapter of kind {adapters.kind} as it is here; only LoRA is timed"
            )
        try:
            from peft import LoraConfig, get_peft_model  # takes ten seconds
        except ImportError as error:
            raise ConfigError(
                "LoRA is timed beside PEFT, which is not installed; 'pip install peft', or give --no-peft"
            ) from error
        self.tasks, self.names = list(adapters.tasks), None
        (config,), (lora,) = adapters.configs, adapters
        places = {site: site.name.removeprefix("encoder.") for site in lora.sites}
        options = LoraConfig(r=config.rank, lora_alpha=config.alpha, target_modules=list(places.values()))
        self.model = copy.deepcopy(base.model)
        self.encoder = get_peft_model(self.model.encoder, options, adapter_name=self.tasks[0])
        for task in self.tasks[1:]:
            self.encoder.add_adapter(task, options)
        for site, place in places.items():
            theirs = self.model.encoder.get_submodule(place)
            _copy_matrices(theirs.lora_A, lora.down[site.key].weight, self.tasks)
            _copy_matrices(theirs.lora_B, lora.up[site.key].weight, self.tasks)
        self.model.encoder = self.encoder.eval()
        self.encoder.register_forward_pre_hook(self._name_rows, with_kwargs=True)

    def mix(self, number: int) -> None:
        """Let the rows of the next batch be those of all tasks."""
        self.names = self.tasks

    def activate(self, number: int) -> None:
        """Let the next batch be of one task."""
        self.names = None
        self.encoder.set_adapter(self.tasks[number])

    def _name_rows(self, encoder: nn.Module, args: tuple, options: dict) -> tuple[tuple, dict]:
        return args, options if self.names is None else {**options, "adapter_names": self.names}


def _copy_matrices(theirs: nn.ModuleDict, table: Tensor, tasks: Sequence[str]) -> None:
    """Put each task's matrix of our table (K, D_in, D_out) where PEFT holds it, transposed."""
    for task, matrix in zip(tasks, table, strict=True):
        theirs[task].weight.data = matrix.T.contiguous()


def _distances(x: Tensor, y: Tensor) -> Tensor:
    """Give the largest difference of each row, in units of the largest number; a nan is far from anything."""
    distance = (x - y).abs().flatten(1).amax(dim=1) / y.abs().amax()
    return distance.nan_to_num(nan=torch.inf)


def _cost(name: str, seconds: Sequence[float], bare: Sequence[float]) -> Cost:
    ratios = [own / other for own, other in zip(seconds, bare, strict=True)]
    return Cost(name, statistics.median(seconds), statistics.median(ratios))
