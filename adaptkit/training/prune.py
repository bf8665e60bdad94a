"""Remove adapters from one block after another and measure the WER: `adaptkit adapters prune`.

Chen et al., Efficient adapters for giant speech models, 2023, arXiv:2306.08131: adapters can be removed, in
particular from the lower blocks [abstract]. Training the remaining adapters further is ours [ours].
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from adaptkit import experiment, locks
from adaptkit.adapters import api
from adaptkit.adapters.api import AdapterConfig, AdapterStack
from adaptkit.adapters.catalog import available
from adaptkit.adapters.per_task import SHARED
from adaptkit.errors import ConfigError, listed
from adaptkit.experiment import Experiment
from adaptkit.files import write_text
from adaptkit.folders import RunFolder
from adaptkit.kaldi import datadir
from adaptkit.model import checkpoint
from adaptkit.model.checkpoint import AdapterFile
from adaptkit.model.load import LoadedExperiment, load_experiment
from adaptkit.scoring.bootstrap import LEVEL
from adaptkit.scoring.wer import ErrorRate
from adaptkit.tables import aligned
from adaptkit.training.run import train_adapters


@dataclass(frozen=True)
class PrunedRow:
    """The blocks that keep adapters, counted from 0, with parameter counts and word error rates."""

    blocks: tuple[int, ...]
    num_dropped: int  # blocks whose adapters were removed
    params: int
    params_per_task: int
    pruned: ErrorRate
    retrained: ErrorRate | None


Measure = Callable[[Path, Path, int], ErrorRate]  # (experiment folder, data set, batch_frames)


def prune(
    exp: Path,
    *,
    measure: Measure,
    device: str,
    data: Path | None = None,
    out: Path | None = None,
    from_bottom: bool = True,
    retrain_epochs: int | None = None,
) -> list[PrunedRow]:
    """Measure an experiment with adapters in fewer and fewer blocks, down to one; write `prune.json`.

    Each pruned experiment is written to `keep_<first>-<last>` in `out` (by default a folder inside `exp`).
    With `retrain_epochs` it is trained further, with the same options, in its subfolder `retrained`; an
    interrupted retraining resumes and a finished one is not repeated. WER is measured on `data`, by default
    the experiment's validation set.
    """
    loaded = load_experiment(exp)
    settings, base, file = loaded.settings, loaded.base, loaded.file
    data = data or _find_data(loaded.folder, settings)
    if settings.data is None and retrain_epochs is not None:
        raise ConfigError(f"{loaded.folder.config}: names no data to retrain on, for --retrain-epochs")
    if retrain_epochs is not None:
        _refuse_untrained(data, loaded)
    kept = find_kept(file.adapters, base.num_blocks, from_bottom=from_bottom)
    out = out or exp / f"pruned_from_{'bottom' if from_bottom else 'top'}"
    rows = []
    with locks.hold(out):
        for blocks in kept:
            stack, folder = cut(loaded, blocks), RunFolder(out / f"keep_{blocks[0]}-{blocks[-1]}")
            left = _save(folder, settings, stack=stack, file=file)
            pruned, retrained = measure(folder.path, data, left.train.batch_frames), None
            if retrain_epochs is not None:
                retrain = _retrain(folder, left, epochs=retrain_epochs, device=device)
                retrained = measure(retrain, data, left.train.batch_frames)
            dropped = len(kept[0]) - len(blocks)
            rows.append(
                PrunedRow(blocks, dropped, stack.num_parameters, stack.num_per_task, pruned, retrained)
            )
        write_text(out / "prune.json", json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    return rows


def format_rows(rows: Sequence[PrunedRow]) -> str:
    """Format the rows as a table."""
    interval = f"{LEVEL} % interval"
    head = ["blocks", "dropped", "parameters", "per speaker", "WER", interval]
    if rows[0].retrained:
        head += ["retrained", interval]
    return aligned([head, *map(_cells, rows)])


def find_kept(
    entries: Sequence[AdapterConfig], num_blocks: int, *, from_bottom: bool
) -> list[tuple[int, ...]]:
    """List the sets of blocks that keep adapters, the full set first; every adapter keeps a block.

    If there are several adapters, those that cannot be pruned keep all their blocks.
    """
    own = [set(_carrying(entry, num_blocks)) for entry in entries if _has_blocks(type(entry))]
    if not own:
        kinds = [kind for kind in available() if _has_blocks(api.load_kind(kind).Config)]
        raise ConfigError(
            f"{listed(entry.kind for entry in entries)}: cannot be pruned, because its blocks share weights "
            f"or depend on each other; adapter types with an option 'blocks' can: {listed(kinds)}"
        )
    carrying = tuple(sorted(set().union(*own)))
    counts = range(len(carrying), 0, -1)
    kept = [carrying[-count:] if from_bottom else carrying[:count] for count in counts]
    return [blocks for blocks in kept if all(each & set(blocks) for each in own)]


def cut(loaded: LoadedExperiment, blocks: Sequence[int]) -> AdapterStack:
    """Build the adapters of an experiment in some of its blocks only, with their trained weights."""
    base, file = loaded.base, loaded.file
    entries = tuple(_without_others(entry, blocks, base.num_blocks) for entry in file.adapters)
    stack = api.build(entries, base.sites, file.tasks, seed=0)
    weights = {name: file.weights[name] for name in stack.state_dict()}
    for index, (member, whole) in enumerate(zip(stack, loaded.adapters, strict=True)):
        if member.space is not None:
            columns = whole.space.columns(whole, member.space.names(member))
            for name in (f"{index}.space.{part}" for part in ("basis", "origin")):
                weights[name] = weights[name][..., columns]
    left = replace(file, adapters=entries, weights=weights)
    return checkpoint.restore(left, base, loaded.folder.adapter)


def _has_blocks(config: type[AdapterConfig]) -> bool:
    return "blocks" in config.model_fields


def _carrying(entry: AdapterConfig, num_blocks: int) -> Sequence[int]:
    return range(num_blocks) if entry.blocks is None else entry.blocks


def _without_others(entry: AdapterConfig, blocks: Sequence[int], num_blocks: int) -> AdapterConfig:
    if not _has_blocks(type(entry)):
        return entry
    left = tuple(block for block in _carrying(entry, num_blocks) if block in blocks)
    return entry.model_copy(update={"blocks": left})


def _find_data(folder: RunFolder, settings: Experiment) -> Path:
    if settings.data is None or settings.data.valid is None:
        raise ConfigError(f"{folder.config}: names no data to measure on; name a set with --data")
    return settings.data.valid


def _refuse_untrained(data: Path, loaded: LoadedExperiment) -> None:
    """Refuse to retrain without speakers of the set to measure on, such as enrolled ones."""
    settings = loaded.settings
    if settings.data is None or not loaded.adapters.num_per_task:
        return
    path = settings.data.train
    trained = {SHARED} if settings.train.shared else {*datadir.read(path, needs_text=False).tasks}
    lost = [task for task in datadir.read(data, needs_text=False).tasks if task not in trained]
    if SHARED in trained:  # which serves speakers without weights of their own
        own = {*loaded.file.tasks}
        lost = [task for task in lost if task in own]
    if lost:
        raise ConfigError(
            f"{data}: its speakers {listed(lost, 5)} have no utterances in the training set {path}, so "
            "retraining would drop their adapters; omit --retrain-epochs, or name a set of the training "
            "speakers with --data"
        )


def _save(folder: RunFolder, settings: Experiment, *, stack: AdapterStack, file: AdapterFile) -> Experiment:
    """Write the remaining adapters as an experiment of their own, and return its settings."""
    name = f"{settings.name}_{folder.path.name}"
    left = settings.model_copy(update={"name": name, "adapters": stack.configs})
    experiment.save(left, folder.config)
    weights, kept = stack.state_dict(), file.unimproved
    checkpoint.save(folder.adapter, stack, file.base_fingerprint, file.step, weights, unimproved=kept)
    return left


def _retrain(folder: RunFolder, settings: Experiment, *, epochs: int, device: str) -> Path:
    """Train the remaining adapters further, and return the folder of the result."""
    towards = "start" if settings.train.decays_to_start else "zero"  # as in the experiment
    changes = {"max_epochs": epochs, "start": folder.adapter, "decay_towards": towards}
    options = settings.train.model_copy(update=changes)
    changed = settings.model_copy(update={"name": f"{settings.name}_retrained", "train": options})
    out = folder.path / "retrained"
    train_adapters(changed, out, device=device, resume=RunFolder(out).is_begun)
    return out


def _cells(row: PrunedRow) -> list[str]:
    first, last = row.blocks[0], row.blocks[-1]
    numbers = [str(row.num_dropped), f"{row.params:,}", f"{row.params_per_task:,}"]
    rates = [rate for rate in (row.pruned, row.retrained) if rate]
    shown = [cell for rate in rates for cell in (f"{rate.wer:.2f}", f"{rate.low:.2f} to {rate.high:.2f}")]
    return [f"{first}-{last}" if last > first else str(first), *numbers, *shown]
