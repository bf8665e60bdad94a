"""Leave adapters out of one block after another, and see what that costs: `adaptkit adapters prune`.

Chen et al., Efficient adapters for giant speech models, 2023, arXiv:2306.08131: adapters of the lower blocks
in particular can be left out [abstract]. How what is left is trained on is ours [ours].
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from adaptkit import experiment
from adaptkit.adapters import api
from adaptkit.adapters.api import AdapterConfig, AdapterStack
from adaptkit.adapters.per_task import numbers_per_task
from adaptkit.base import checkpoint as base_checkpoint
from adaptkit.base.checkpoint import BaseModel
from adaptkit.decoding import run
from adaptkit.errors import ConfigError, listed
from adaptkit.experiment import Experiment
from adaptkit.files import write_text
from adaptkit.model import checkpoint
from adaptkit.model.checkpoint import AdapterFile
from adaptkit.scoring import files as score_files
from adaptkit.scoring.bootstrap import LEVEL
from adaptkit.tables import aligned
from adaptkit.training.run import train_adapters


@dataclass(frozen=True)
class Wanted:
    """What to prune, on what to measure it, and where that goes."""

    exp: Path  # the folder of trained adapters
    data: Path | None  # a data directory; None for the experiment's validation set
    out: Path | None  # None for a folder inside `exp`
    from_bottom: bool  # or from the top
    retrain_epochs: int | None  # None for no retraining


@dataclass(frozen=True)
class Rate:
    """A word error rate with its bounds at 95 %, all in percent."""

    wer: float
    low: float
    high: float


@dataclass(frozen=True)
class Row:
    """Which blocks still carry adapters, counted from 0, and how well these recognise the set."""

    blocks: tuple[int, ...]
    num_dropped: int  # blocks that carried adapters too
    params: int
    params_per_task: int
    pruned: Rate
    retrained: Rate | None


def prune(wanted: Wanted, *, device: str) -> list[Row]:
    """Measure an experiment with ever fewer blocks that carry adapters, down to one; write `prune.json`.

    What is left lies in `keep_<first>-<last>` of `out` and decodes as an experiment does. Its folder
    `retrained` holds the experiment trained on from there with the same options, which can be reported too; a
    retraining that was stopped goes on, and one that is done is not done again.
    """
    settings, path = experiment.load(wanted.exp / "config.yaml"), wanted.exp / "adapter.safetensors"
    data = _find_data(wanted, settings)
    if settings.data is None and wanted.retrain_epochs is not None:
        raise ConfigError(f"{wanted.exp}/config.yaml: names no data to retrain on, for --retrain-epochs")
    file, base = checkpoint.load(path), base_checkpoint.load(settings.base.dir)
    kept = find_kept(file.adapters, base.num_blocks, from_bottom=wanted.from_bottom)
    out = wanted.out or wanted.exp / f"pruned_from_{'bottom' if wanted.from_bottom else 'top'}"
    rows = []
    for blocks in kept:
        stack, folder = cut(file, blocks, base=base, path=path), out / f"keep_{blocks[0]}-{blocks[-1]}"
        left = _save(folder, settings, stack=stack, file=file)
        pruned, retrained = _measure(folder, data, settings=left, device=device), None
        if wanted.retrain_epochs is not None:
            retrain = _retrain(folder, left, epochs=wanted.retrain_epochs, device=device)
            retrained = _measure(retrain, data, settings=left, device=device)
        per_task = numbers_per_task(stack)
        params = sum(parameter.numel() for parameter in stack.parameters())
        rows.append(Row(blocks, len(kept[0]) - len(blocks), params, per_task, pruned, retrained))
    write_text(out / "prune.json", json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    return rows


def render(rows: Sequence[Row]) -> str:
    """Lay the rows out as a table."""
    interval = f"{LEVEL} % interval"
    head = ["blocks", "dropped", "parameters", "per task", "WER", interval]
    if rows[0].retrained:
        head += ["retrained", interval]
    return aligned([head, *map(_cells, rows)])


def find_kept(
    entries: Sequence[AdapterConfig], num_blocks: int, *, from_bottom: bool
) -> list[tuple[int, ...]]:
    """Give the blocks that go on carrying adapters, all first; each adapter that can be pruned keeps one.

    An adapter that cannot be pruned, where there are others, stays whole.
    """
    own = [set(_carrying(entry, num_blocks)) for entry in entries if _has_blocks(type(entry))]
    if not own:
        kinds = [kind for kind in api.available() if _has_blocks(api.load_kind(kind).Config)]
        raise ConfigError(
            f"{listed(entry.kind for entry in entries)}: cannot be pruned, since its blocks share weights or "
            f"cannot be left out one by one; kinds with an option 'blocks' can: {listed(kinds)}"
        )
    carrying = tuple(sorted(set().union(*own)))
    counts = range(len(carrying), 0, -1)
    kept = [carrying[-count:] if from_bottom else carrying[:count] for count in counts]
    return [blocks for blocks in kept if all(each & set(blocks) for each in own)]


def cut(file: AdapterFile, blocks: Sequence[int], *, base: BaseModel, path: Path) -> AdapterStack:
    """Build the adapters of a file at `path` in some of their blocks alone, weights as they are there."""
    entries = tuple(_without_others(entry, blocks, base.num_blocks) for entry in file.adapters)
    own = api.build(entries, base.sites, file.tasks, seed=0).state_dict()
    weights = {name: weight for name, weight in file.weights.items() if name in own}
    return checkpoint.restore(replace(file, adapters=entries, weights=weights), base, path)


def _has_blocks(config: type[AdapterConfig]) -> bool:
    return "blocks" in config.model_fields


def _carrying(entry: AdapterConfig, num_blocks: int) -> Sequence[int]:
    return range(num_blocks) if entry.blocks is None else entry.blocks


def _without_others(entry: AdapterConfig, blocks: Sequence[int], num_blocks: int) -> AdapterConfig:
    if not _has_blocks(type(entry)):
        return entry
    left = tuple(block for block in _carrying(entry, num_blocks) if block in blocks)
    return entry.model_copy(update={"blocks": left})


def _find_data(wanted: Wanted, settings: Experiment) -> Path:
    if wanted.data is not None:
        return wanted.data
    if settings.data is None:
        raise ConfigError(f"{wanted.exp}/config.yaml: names no data to measure on; give a set with --data")
    return settings.data.valid


def _save(folder: Path, settings: Experiment, *, stack: AdapterStack, file: AdapterFile) -> Experiment:
    """Write what is left of adapters as an experiment of its own, and give its settings."""
    name = f"{settings.name}_{folder.name}"
    left = settings.model_copy(update={"name": name, "adapters": stack.configs})
    experiment.save(left, folder / "config.yaml")
    path, weights = folder / "adapter.safetensors", stack.state_dict()
    checkpoint.save(path, stack, file.base_fingerprint, file.step, weights)
    return left


def _retrain(folder: Path, settings: Experiment, *, epochs: int, device: str) -> Path:
    """Train what is left on, and give the folder it is in."""
    options = settings.train.model_copy(update={"max_epochs": epochs})
    changed = settings.model_copy(update={"name": f"{settings.name}_retrained", "train": options})
    out, start = folder / "retrained", folder / "adapter.safetensors"
    train_adapters(changed, out, device=device, resume=True, start=start)
    return out


def _measure(exp: Path, data: Path, *, settings: Experiment, device: str) -> Rate:
    """Decode a set with an experiment, and score it."""
    wanted = run.Wanted(
        exp=exp,
        data=data,
        out=None,
        base=None,
        base_only=False,
        unknown_task="error",
        batch_frames=settings.train.batch_frames,
        allow_pipes=False,
    )
    decoded = run.decode_folder(wanted, device=device)
    report = score_files.score_files(data, decoded)
    score_files.write(report, decoded)
    return Rate(round(report.total.rate, 2), report.interval.low, report.interval.high)


def _cells(row: Row) -> list[str]:
    first, last = row.blocks[0], row.blocks[-1]
    numbers = [str(row.num_dropped), f"{row.params:,}", f"{row.params_per_task:,}"]
    rates = [rate for rate in (row.pruned, row.retrained) if rate]
    shown = [cell for rate in rates for cell in (f"{rate.wer:.2f}", f"{rate.low:.2f} to {rate.high:.2f}")]
    return [f"{first}-{last}" if last > first else str(first), *numbers, *shown]
