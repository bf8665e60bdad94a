"""Time searches on utterances of many lengths, and ESPnet's own `Speech2Text` beside them in the same run."""

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from adaptkit.base.checkpoint import BaseModel
from adaptkit.base.reference import Reference
from adaptkit.base.search.paths import BestPath
from adaptkit.base.search.searcher import Searcher
from adaptkit.bench.batch import count_inputs, draw_inputs
from adaptkit.bench.timed import now
from adaptkit.data.batches import Batch, collate, plan_batches
from adaptkit.data.dataset import BASE_TASK, Example, Examples
from adaptkit.errors import DataError, counted
from adaptkit.kaldi.datadir import Utterance
from adaptkit.model.adapted import AdaptedModel
from adaptkit.model.recognise import length_class


@dataclass(frozen=True)
class Speech:
    """The utterances to decode: inputs of the model, speech (N,) or features (T, F), and their duration."""

    inputs: tuple[Tensor, ...]
    lengths: tuple[int, ...]  # feature frames
    seconds: float  # of all together


@dataclass(frozen=True)
class DecodingCost:
    """The time of one way to decode all utterances, and how its hypotheses compare with the first way's."""

    name: str
    seconds: float  # median over rounds
    real_time: float  # seconds per second of speech
    num_equal: int  # utterances with the same tokens as by the first way
    largest_difference: float  # of their scores


def draw_speech(base: BaseModel, num_utterances: int, min_sec: float, max_sec: float) -> Speech:
    """Draw noise of evenly spaced durations for a base model."""
    spread = max(1, num_utterances - 1)
    durations = [min_sec + (max_sec - min_sec) * row / spread for row in range(num_utterances)]
    generator = torch.Generator().manual_seed(0)
    inputs = tuple(draw_inputs(base, 1, count_inputs(base, seconds), generator)[0] for seconds in durations)
    lengths = tuple(round(1000 * seconds / base.frame_shift_ms) for seconds in durations)
    return Speech(inputs, lengths, sum(durations))


def take_speech(examples: Examples, num_utterances: int) -> Speech:
    """Take utterances of a data set, evenly spread over their durations."""
    order = sorted(range(len(examples)), key=lambda index: examples.lengths[index])
    if len(order) < num_utterances:
        size = counted(len(order), "utterance")
        raise DataError(f"{examples.data.path}: {size}; ask for fewer with --utterances")
    last, spread = len(order) - 1, max(1, num_utterances - 1)
    chosen = [order[round(last * row / spread)] for row in range(num_utterances)]
    lengths = tuple(examples.lengths[index] for index in chosen)
    seconds = sum(lengths) * examples.base.frame_shift_ms / 1000
    return Speech(tuple(examples[index].inputs for index in chosen), lengths, seconds)


def time_searches(
    base: BaseModel,
    searcher: Searcher,
    speech: Speech,
    *,
    num_rounds: int,
    batch_frames: int,
    has_espnet: bool,
) -> list[DecodingCost]:
    """Time ESPnet, ours one by one and ours in batches, interleaved so that other load affects all alike."""
    adapted = AdaptedModel(base, is_frozen=True).eval()
    device = next(base.model.parameters()).device
    each = [_batch(speech, [row]).to(device) for row in range(len(speech.inputs))]
    plan = plan_batches(speech.lengths, batch_frames, groups=[(length_class(n),) for n in speech.lengths])
    batches = [(rows, _batch(speech, rows).to(device)) for rows in plan]

    def one_by_one() -> list[BestPath]:
        return [adapted.recognise(batch, searcher)[0][0] for batch in each]

    def in_batches() -> list[BestPath]:
        found: dict[int, BestPath] = {}
        for rows, batch in batches:
            paths = adapted.recognise(batch, searcher)
            found.update({row: own[0] for row, own in zip(rows, paths, strict=True)})
        return [found[row] for row in range(len(speech.inputs))]

    ways: dict[str, Callable[[], list[BestPath]]] = {"one by one": one_by_one, "in batches": in_batches}
    with tempfile.TemporaryDirectory() as folder:
        if has_espnet:
            reference = Reference(base, searcher.options, searcher.lm, Path(folder))
            inputs = [one.to(device) for one in speech.inputs]
            ways = {"Speech2Text": lambda: [reference.find(one)[0] for one in inputs], **ways}
        with torch.inference_mode(), adapted.hooked():
            return _time(ways, speech, num_rounds, device)


def _time(
    ways: dict[str, Callable[[], list[BestPath]]], speech: Speech, num_rounds: int, device: torch.device
) -> list[DecodingCost]:
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    found: dict[str, list[BestPath]] = {}
    for _ in range(num_rounds + 1):  # the first is a warm-up
        for name, decode in ways.items():
            started = now(device)
            found[name] = decode()
            seconds[name].append(now(device) - started)
    first = next(iter(found.values()))
    return [_cost(name, seconds[name][1:], found[name], first, speech) for name in ways]


def _cost(
    name: str, seconds: Sequence[float], found: Sequence[BestPath], first: Sequence[BestPath], speech: Speech
) -> DecodingCost:
    median = statistics.median(seconds)
    pairs = list(zip(found, first, strict=True))
    equal = [own.tokens == other.tokens for own, other in pairs]
    differences = [abs(own.score - other.score) for own, other in pairs]
    return DecodingCost(name, median, median / speech.seconds, sum(equal), max(differences))


def _batch(speech: Speech, rows: Sequence[int]) -> Batch:
    nothing = torch.empty(0, dtype=torch.long)
    utterances = [Utterance(f"row{row}", "", "", "") for row in rows]
    return collate(
        [Example(u, BASE_TASK, speech.inputs[row], nothing) for u, row in zip(utterances, rows, strict=True)]
    )


def time_first(
    load: Callable[[], BaseModel], new_searcher: Callable[[BaseModel], Searcher]
) -> tuple[float, BaseModel, Searcher]:
    """Return the seconds until the first hypothesis, for two seconds of noise, and what was loaded for it."""
    started = time.perf_counter()
    base = load()
    searcher = new_searcher(base)
    adapted = AdaptedModel(base, is_frozen=True).eval()
    speech = draw_speech(base, 1, 2.0, 2.0)
    with torch.inference_mode(), adapted.hooked():
        adapted.recognise(_batch(speech, [0]).to(next(base.model.parameters()).device), searcher)
    return time.perf_counter() - started, base, searcher
