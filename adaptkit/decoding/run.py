"""Decode a folder into a folder: what `adaptkit decode` does."""

import logging
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from adaptkit import experiment, records
from adaptkit.adapters.api import AdapterStack
from adaptkit.adapters.per_task import numbers_per_task, shared_parameters
from adaptkit.base import checkpoint as base_checkpoint
from adaptkit.base.checkpoint import BaseModel
from adaptkit.data.dataset import Examples, find_frameless, number_tasks, read_examples
from adaptkit.errors import ConfigError
from adaptkit.kaldi.tables import write_table
from adaptkit.model import checkpoint
from adaptkit.model.adapted import Objective
from adaptkit.model.recognise import Hypothesis, decode
from adaptkit.submodels.cache import SubmodelCache
from adaptkit.training.run_record import Recorded, write_record

BASE_ALONE = "none"  # the experiment without adapters, which a report compares the others with
_SUBMODEL_MB = 1024
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Wanted:
    """What to decode with what, and where the result goes."""

    exp: Path  # an experiment's folder; for the base model alone also its folder, or an experiment's yaml
    data: Path
    out: Path | None
    base: Path | None  # where the base model is, if not where the experiment says
    base_only: bool
    unknown_task: str  # error, or base
    batch_frames: int
    allow_pipes: bool
    submodels: Path | None = None  # a folder of them, in place of the adapters of `exp`
    submodel_mb: int | None = None  # MiB that may hold Submodels, if not the usual number


@dataclass(frozen=True)
class _Model:
    """What recognises: a base model, alone or with adapters, which may be the slots of Submodels."""

    base: BaseModel
    adapters: AdapterStack | None = None
    submodels: SubmodelCache | None = None


def decode_folder(wanted: Wanted, *, device: str) -> Path:
    """Write `text`, `utt2score` and `run.json` of a data directory; give the folder they are in.

    The base alone is an experiment of its own, `none`, beside EXP, and a folder of Submodels is one too,
    unless `out` says where it goes.
    """
    base_dir, base_only = _find_base(wanted)
    with _load(wanted, base_dir, base_only, device=device) as (model, examples):
        examples = _number_tasks(examples, model, unknown=wanted.unknown_task)
        short = find_frameless(examples)
        objective = Objective(model.base, model.adapters).eval()
        started = time.monotonic()
        with objective.hooked():
            kept = examples.without(short)
            found = decode(objective, kept, wanted.batch_frames, submodels=model.submodels)
        seconds = time.monotonic() - started
    found += map(_nothing, short)
    out = wanted.out or _default_folder(wanted, base_only)
    write_table(out / "utt2score", {h.utt_id: f"{h.score:.4f}" for h in found})
    write_table(out / "text", {h.utt_id: h.text for h in found})
    made = _describe(out, wanted, model)
    if made is not None:
        write_record(out.parent, model.base, made)
    records.DecodeRecord(
        set_name=wanted.data.name,
        num_utterances=len(found),
        audio_sec=sum(examples.lengths) * model.base.frame_shift_ms / 1000,
        decode_seconds=seconds,
        peak_mb=records.peak_memory_mb(),
        batch_size=max(1, wanted.batch_frames // max(examples.lengths)),
        base_only=base_only,
    ).write(out / "run.json")
    return out


@contextmanager
def _load(
    wanted: Wanted, base_dir: Path, base_only: bool, *, device: str
) -> Iterator[tuple[_Model, Examples]]:
    """Load the base, the set, and what it is decoded with: slots for no more Submodels than it has tasks."""
    adapter_path = wanted.exp / "adapter.safetensors"
    is_whole = not base_only and wanted.submodels is None
    file = checkpoint.load(adapter_path) if is_whole else None
    base = base_checkpoint.load(base_dir, device)
    adapters = None if file is None else checkpoint.restore(file, base, adapter_path)
    examples = read_examples(wanted.data, base, allow_pipes=wanted.allow_pipes)
    if wanted.submodels is None:
        yield _Model(base, adapters), examples
    else:
        budget_bytes = (wanted.submodel_mb or _SUBMODEL_MB) * 2**20
        most_slots = len(examples.data.tasks)
        cache = SubmodelCache(wanted.submodels, base, budget_bytes=budget_bytes, most_slots=most_slots)
        with closing(cache) as submodels:
            yield _Model(base, submodels.stack, submodels), examples
            stats = submodels.stats()
            words = "%s: %d Submodels fit in memory; %d uses found theirs there, %d read it, %d were evicted"
            _LOG.info(words, wanted.submodels, stats.num_slots, stats.hits, stats.misses, stats.evictions)


def _number_tasks(examples: Examples, model: _Model, *, unknown: str) -> Examples:
    """Give each task of the set its id; an unknown one, and a damaged Submodel of one, is refused."""
    if model.adapters is None:
        return examples
    if model.submodels is not None:
        model.submodels.check(examples.data.tasks)
    tasks = model.adapters.tasks if model.submodels is None else model.submodels.known()
    return replace(examples, task_ids=number_tasks(examples.data, tasks, unknown=unknown))


def _find_base(wanted: Wanted) -> tuple[Path, bool]:
    """Find the base model's folder, and whether it decodes alone, as one does that is EXP itself."""
    if wanted.base_only and wanted.submodels is not None:
        raise ConfigError("--base-only leaves adapters out, and --submodels names some; give one of the two")
    if wanted.submodel_mb is not None and wanted.submodels is None:
        raise ConfigError("--submodel-mb is the memory of --submodels, which is not given; give both")
    if (wanted.exp / "model.pth").exists():
        return wanted.base or wanted.exp, wanted.submodels is None
    settings = wanted.exp if wanted.exp.is_file() else wanted.exp / "config.yaml"
    return wanted.base or experiment.load(settings).base.dir, wanted.base_only


def _default_folder(wanted: Wanted, base_only: bool) -> Path:
    own = wanted.submodels or wanted.exp
    parent = wanted.exp.parent / BASE_ALONE if base_only else own
    return parent / f"decode_{wanted.data.name}"


def _nothing(utt_id: str) -> Hypothesis:
    return Hypothesis(utt_id, "", 0.0)


def _describe(out: Path, wanted: Wanted, model: _Model) -> Recorded | None:
    """Describe what has no training, whose record is left here: the base alone, or Submodels."""
    submodels, folder = model.submodels, out.parent
    is_ours = folder == wanted.submodels or not (folder / "run.json").exists()
    if submodels is not None and out.name.startswith("decode_") and is_ours:
        num_each, tasks = numbers_per_task(submodels.stack), submodels.known()
        num_shared = sum(parameter.numel() for _, parameter in shared_parameters(submodels.stack))
        kind, num_all = submodels.stack.kind, num_shared + len(tasks) * num_each
        return Recorded(folder.resolve().name, kind, tasks, num_all, num_each)
    if model.adapters is None and folder.name == BASE_ALONE:
        return Recorded(BASE_ALONE, "none", (), 0, 0)
    return None
