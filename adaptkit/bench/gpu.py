"""All benchmarks in one run, sized to take a GPU minutes, as tables under the card's name."""

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch

from adaptkit.adapters import api
from adaptkit.adapters.api import AdapterConfig
from adaptkit.adapters.catalog import available
from adaptkit.adapters.describe import read
from adaptkit.augment.policy import read_policy
from adaptkit.base import create
from adaptkit.base.checkpoint import BaseModel
from adaptkit.base.search.choose import new_searcher
from adaptkit.bench import augment, decoding, loading, steps, submodels
from adaptkit.bench.batch import count_inputs, draw_batch
from adaptkit.bench.timed import TimedStep, run_rounds, training_step
from adaptkit.config import find_published, read_yaml
from adaptkit.data.batches import plan_batches
from adaptkit.features.fbank import FbankOptions
from adaptkit.model.adapted import AdaptedModel
from adaptkit.provenance import collect_versions, describe_device, find_toolkit_commit
from adaptkit.search_options import SearchRequest, read_search
from adaptkit.training.precision import autocast

_LOG = logging.getLogger(__name__)
PRECISIONS = ("float32", "bfloat16")
EPOCHS, UTTERANCES = 20, 24  # that a Submodel is trained for, and on
STEP_UTTERANCES = 8  # of a speaker in a step, as train.task_utterances has by default

Figure = str | int | float | None
Rows = list[list[Figure]]


@dataclass(frozen=True)
class Scale:
    """The sizes of what is timed."""

    model: str  # in conf/base; it gets features in place of its frontend
    num_blocks: int
    size: steps.Size
    num_rounds: int
    num_speakers: tuple[int, ...]  # trained in one job
    seconds: float  # of an utterance of theirs
    pass_frames: int  # of a forward pass in training
    load: submodels.Load
    num_loads: int
    num_residents: int
    spread: augment.Spread
    speech: tuple[int, float, float]  # utterances to decode, seconds of the shortest and the longest
    num_beam_tokens: int  # of a hypothesis of beam search


LARGE = Scale(
    model="conformer_12x512_hybrid",
    num_blocks=12,
    size=steps.Size(num_utterances=16, seconds=8.0, num_tasks=4),
    num_rounds=5,
    num_speakers=(1, 8, 32, 128),
    seconds=2.0,
    pass_frames=24000,
    load=submodels.Load(num_speakers=128, seconds=2.0),
    num_loads=200,
    num_residents=10_000,
    spread=augment.Spread(32, 2.0, 20.0),
    speech=(8, 2.0, 15.0),
    num_beam_tokens=30,
)
SMALL = Scale(
    model="conformer_6x96_hybrid",
    num_blocks=2,
    size=steps.Size(num_utterances=2, seconds=0.6, num_tasks=2, num_tokens=3),
    num_rounds=1,
    num_speakers=(1, 2),
    seconds=0.6,
    pass_frames=400,
    load=submodels.Load(num_speakers=2, seconds=0.6),
    num_loads=2,
    num_residents=20,
    spread=augment.Spread(2, 1.0, 2.0),
    speech=(1, 0.5, 0.5),
    num_beam_tokens=2,
)


@dataclass(frozen=True)
class Section:
    """One table: the first column names what is timed."""

    title: str
    columns: tuple[str, ...]
    rows: Rows
    seconds: float = 0.0  # that measuring took


@dataclass(frozen=True)
class Findings:
    """What was measured, and on what."""

    device: str
    model: str
    versions: dict[str, str]
    commit: str | None
    sections: list[Section]


def measure(scale: Scale, device: str, *, has_peft: bool) -> Findings:
    """Measure everything on a device; float32 is exact there, without TF32."""
    base = _build(scale).to(device)
    sections = []
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        for make in _makers(base, scale, has_peft):
            started = time.monotonic()
            section = replace(make(), seconds=time.monotonic() - started)
            _LOG.info("%s: %.0f s", section.title, section.seconds)
            sections.append(section)
            if torch.device(device).type == "cuda":
                torch.cuda.empty_cache()
    versions = collect_versions()
    model = f"{scale.model} of {scale.num_blocks} blocks"
    return Findings(describe_device(device), model, versions, find_toolkit_commit(), sections)


def as_markdown(found: Findings) -> str:
    """Return the tables in Markdown."""
    versions = ", ".join(f"{name} {version}" for name, version in found.versions.items())
    lines = [f"# {found.device}", "", f"{found.model} with random weights that reads features; {versions}."]
    for section in found.sections:
        lines += ["", f"## {section.title}", "", f"| {' | '.join(section.columns)} |"]
        lines.append(f"|:--|{'--:|' * (len(section.columns) - 1)}")
        lines += [f"| {' | '.join(map(_shown, row))} |" for row in section.rows]
    return "\n".join(lines) + "\n"


def _shown(figure: Figure) -> str:
    if figure is None:
        return ""
    if isinstance(figure, float):
        return f"{figure:.4f}" if figure < 0.1 else f"{figure:.2f}"
    return f"{figure:,}" if isinstance(figure, int) else figure


def _build(scale: Scale) -> BaseModel:
    """Build a hybrid model with random weights that reads features."""
    path = find_published("base", scale.model)
    plain = {
        section: {name: value for name, value in read_yaml(path)[section].items() if "interctc" not in name}
        for section in ("encoder_conf", "model_conf")
    }
    plain["encoder_conf"]["num_blocks"] = scale.num_blocks
    changes = {"frontend": None, "frontend_conf": {}, "input_size": FbankOptions.num_bins, **plain}
    return create.untrained(path, changes=changes)


def _makers(base: BaseModel, scale: Scale, has_peft: bool) -> Iterator[Callable[[], Section]]:
    for precision in PRECISIONS:
        yield lambda precision=precision: _steps(base, scale, precision, has_peft)
    yield lambda: _per_hour(base, scale)
    for kind in ("residual", "lora"):
        yield lambda kind=kind: _mixed(base, scale, read(kind, []), has_peft)
    yield lambda: _augmentation(base, scale)
    for search in ("greedy", "beam"):
        yield lambda search=search: _decoding(base, scale, search)
    yield lambda: _loading(base, scale)
    yield lambda: _residents(base, scale)


def _steps(base: BaseModel, scale: Scale, precision: str, has_peft: bool) -> Section:
    entries = [read(kind, []) for kind in available()]
    costs = steps.time_steps(
        base, entries, scale.size, num_steps=scale.num_rounds, precision=precision, has_peers=has_peft
    )
    size = scale.size
    columns = ("", "trained", "s per step", "of fine-tuning", "of floor", "peak MiB", "of fine-tuning")
    full = costs[0]
    rows: Rows = [
        [c.name, c.params_trainable, c.seconds, c.ratio, c.of_floor, c.peak_mb, c.peak_mb / full.peak_mb]
        for c in costs
    ]
    what = f"{size.num_utterances} utterances of {size.seconds:g} s, {size.num_tasks} speakers"
    return Section(f"Training steps in {precision}: {what}", columns, rows)


def _per_hour(base: BaseModel, scale: Scale) -> Section:
    """Train K speakers in one job, and one after the other; without start-up, data and validation."""
    entry = read("residual", [])
    num_steps = EPOCHS * UTTERANCES // STEP_UTTERANCES
    rows: Rows = []
    for precision in PRECISIONS:
        timed = [_job(base, entry, scale, k, precision) for k in scale.num_speakers]
        costs = run_rounds(timed, scale.num_rounds)
        alone = 3600 / (costs[0].seconds * num_steps)
        for k, cost in zip(scale.num_speakers, costs, strict=True):
            together = 3600 * k / (cost.seconds * num_steps)
            rows.append([f"{k} in one job, {precision}", cost.seconds, together, alone, together / alone])
    columns = ("residual", "s per step", "Submodels per hour", "one by one", "ratio")
    what = f"{EPOCHS} epochs of {UTTERANCES} utterances of {scale.seconds:g} s"
    return Section(f"Submodels trained per hour: {what}", columns, rows)


def _job(base: BaseModel, entry: AdapterConfig, scale: Scale, num_speakers: int, precision: str) -> TimedStep:
    """Return a step of a job: utterances of every speaker, as many at once as fit in a pass."""
    device = next(base.model.parameters()).device
    stack = api.build([entry], base.sites, [f"spk{k}" for k in range(num_speakers)], seed=0).to(device)
    num_rows = num_speakers * STEP_UTTERANCES
    lengths = torch.full((num_rows,), count_inputs(base, scale.seconds), device=device)
    task_ids = [row // STEP_UTTERANCES for row in range(num_rows)]
    batch = draw_batch(base, lengths, torch.full_like(lengths, 4), task_ids)
    parts = plan_batches(lengths.tolist(), scale.pass_frames)
    adapted = AdaptedModel(base, stack).train()
    return training_step(f"{num_speakers} speakers", adapted, batch, parts=parts, precision=precision)


def _mixed(base: BaseModel, scale: Scale, entry: AdapterConfig, has_peft: bool) -> Section:
    costs = submodels.time_decoding(
        base,
        entry,
        scale.load,
        num_rounds=scale.num_rounds,
        has_peft=has_peft and entry.kind == "lora",
        precisions=PRECISIONS,
    )
    rows: Rows = [[f"{c.name}, {c.precision}", c.seconds, c.ratio] for c in costs]
    what = f"{scale.load.num_speakers} rows of {scale.load.seconds:g} s, a Submodel each"
    return Section(f"Greedy decoding with {entry.kind}: {what}", ("", "s per batch", "of the base"), rows)


def _augmentation(base: BaseModel, scale: Scale) -> Section:
    device = str(next(base.model.parameters()).device)
    spec = read_policy("libri_full_adapt").spec
    costs = augment.time_augmentation(spec, scale.spread, None, num_rounds=scale.num_rounds, device=device)
    rows: Rows = [[c.name, 1000 * c.seconds, c.seconds / costs[0].seconds, c.peak_mb] for c in costs]
    what = f"{scale.spread.num_utterances} utterances of {scale.spread.shortest_sec:g} to "
    title = f"SpecAugment: {what}{scale.spread.longest_sec:g} s"
    return Section(title, ("", "ms per batch", "ratio", "peak MiB"), rows)


def _decoding(base: BaseModel, scale: Scale, search: str) -> Section:
    # with random weights hypotheses would end nowhere or at once
    ends = tuple(f"{bound}lenratio=-{scale.num_beam_tokens}" for bound in ("max", "min"))
    searcher = new_searcher(base, SearchRequest(read_search(search), ends if search == "beam" else ()))
    speech = decoding.draw_speech(base, *scale.speech)
    rows: Rows = []
    for precision in PRECISIONS:
        with autocast(next(base.model.parameters()).device, precision):
            costs = decoding.time_searches(
                base, searcher, speech, num_rounds=1, batch_frames=12000, has_espnet=False
            )
        rows += [[f"{c.name}, {precision}", c.seconds, c.real_time] for c in costs]
    most = f", {scale.num_beam_tokens} tokens each" if search == "beam" else ""
    title = f"Decoding, {search}: {scale.speech[0]} utterances, {speech.seconds:.1f} s{most}"
    return Section(title, ("", "s", "real-time factor"), rows)


def _loading(base: BaseModel, scale: Scale) -> Section:
    rows: Rows = []
    for kind in ("hra", "residual", "lora"):
        cost = loading.time_loading(base, read(kind, []), num_files=8, num_loads=scale.num_loads)
        rows.append([kind, cost.bytes_each, cost.median_ms, cost.p99_ms, cost.max_ms])
    columns = ("", "bytes", "median ms", "p99 ms", "max ms")
    return Section(f"Loading Submodels into slots: {scale.num_loads} loads from disk", columns, rows)


def _residents(base: BaseModel, scale: Scale) -> Section:
    found = loading.measure_residents(base, read("hra", []), scale.num_residents)
    row: list[Figure] = ["hra", found.bytes_each, found.before_mib, found.after_mib]
    columns = ("", "bytes each", "MiB before", "MiB after")
    return Section(f"{scale.num_residents:,} resident Submodels", columns, [row])
