"""Decode a data directory to a folder of hypotheses: `adaptkit decode`."""

import logging
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from adaptkit import config, experiment, locks
from adaptkit.adapters.api import AdapterStack
from adaptkit.adapters.per_task import shared_parameters
from adaptkit.base import archive
from adaptkit.base import checkpoint as base_checkpoint
from adaptkit.base.checkpoint import BaseModel
from adaptkit.base.search.choose import new_searcher
from adaptkit.base.search.paths import BestPath
from adaptkit.base.search.searcher import Searcher
from adaptkit.data.dataset import Examples, find_frameless, number_tasks, read_examples
from adaptkit.decoding.batches import recognise_with_submodels
from adaptkit.decoding.nbest import write_nbest
from adaptkit.errors import ConfigError, listed
from adaptkit.files import checksum
from adaptkit.folders import DecodeFolder, RunFolder
from adaptkit.kaldi.tables import write_table
from adaptkit.model import checkpoint
from adaptkit.model.adapted import AdaptedModel
from adaptkit.model.load import find_base, warn_of_unfinished
from adaptkit.model.recognise import Hypothesis, recognise
from adaptkit.provenance import peak_memory_mb
from adaptkit.records import DecodeRecord, RecordedModel, write_record
from adaptkit.scoring import files as scoring
from adaptkit.scoring.wer import ScoreReport
from adaptkit.search_options import SearchRequest
from adaptkit.submodels.cache import SubmodelCache

BASE_ALONE = "none"  # the experiment without adapters, the baseline of a report
_SUBMODEL_MB = 1024
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class DecodeOptions:
    """What to decode, with which model, and where the result goes."""

    exp: Path  # folder of an experiment; for the base model alone, also its folder or an experiment's yaml
    data: Path
    out: Path | None = None
    base: Path | None = None  # folder of the base model, if it has moved
    overrides: tuple[str, ...] = ()  # of the experiment's settings, of which decoding uses base.dir
    base_only: bool = False
    unknown_speaker: Literal["error", "base"] = "error"
    batch_frames: int = 12000  # feature frames per batch, padding included
    allow_pipes: bool = False
    submodels: Path | None = None  # folder of Submodels, in place of the adapters of `exp`
    submodel_mb: float | None = None  # memory for Submodels in MiB; None for the default
    search: SearchRequest = SearchRequest()


@dataclass(frozen=True)
class _Model:
    """A base model, alone, with adapters, or with the slots of Submodels as adapters."""

    base: BaseModel
    adapters: AdapterStack | None = None
    submodels: SubmodelCache | None = None
    adapter_checksum: int | None = None


def decode_folder(options: DecodeOptions, *, device: str) -> Path:
    """Write `text`, `utt2score` and `run.json` for a data directory; return their folder.

    The data directory needs no `text`. Scores of earlier hypotheses in the folder are removed.

    Unless `out` is given, results of the base model alone go to an experiment `none` beside EXP, and results
    with Submodels go to the folder of Submodels.
    """
    base_dir, base_only = _find_base(options)
    out = DecodeFolder(options.out or _default_folder(options, base_only))
    with locks.hold(out.path):
        _decode(options, out, base_dir, base_only, device=device)
    return out.path


def _decode(
    options: DecodeOptions, out: DecodeFolder, base_dir: Path, base_only: bool, *, device: str
) -> None:
    with _load(options, base_dir, base_only, device=device) as (model, examples):
        examples = _number_tasks(examples, model, unknown=options.unknown_speaker)
        searcher = new_searcher(model.base, _find_search(options))
        short = find_frameless(examples)
        adapted = AdaptedModel(model.base, model.adapters, is_frozen=True).eval()
        started = time.monotonic()
        with adapted.hooked():
            found = _recognise(
                adapted, examples.without(short), options.batch_frames, model.submodels, searcher
            )
        seconds = time.monotonic() - started
    found += [Hypothesis(utt_id, "", 0.0, (BestPath([], 0.0),)) for utt_id in short]
    out.clear()
    if searcher.nbest > 1:
        write_nbest(out, found, model.base.tokens)
    write_table(out.scores, {h.utt_id: f"{h.score:.4f}" for h in found})
    write_table(out.text, {h.utt_id: h.text for h in found})
    _write_record(out.path, options, model, device)
    DecodeRecord(
        set_name=options.data.name,
        num_utterances=len(found),
        audio_sec=sum(examples.lengths) * model.base.frame_shift_ms / 1000,
        decode_seconds=seconds,
        peak_mb=peak_memory_mb(),
        batch_size=max(1, options.batch_frames // max(1, *examples.lengths)),
        base_only=base_only,
        data=str(options.data),
        base_fingerprint=model.base.fingerprint,
        adapter_checksum=model.adapter_checksum,
        search=config.dump(searcher.options),
        search_reason=searcher.reason,
        lm=None if searcher.lm is None else str(searcher.lm.path),
        lm_sha256=None if searcher.lm is None else searcher.lm.digest,
    ).write(out.record)


def decode_and_score(exp: Path, data: Path, *, batch_frames: int, device: str) -> ScoreReport:
    """Decode a data directory with an experiment, and score the result against its references."""
    options = DecodeOptions(exp=exp, data=data, batch_frames=batch_frames)
    decoded = decode_folder(options, device=device)
    report = scoring.score_files(data, decoded)
    scoring.write(report, decoded)
    return report


@contextmanager
def _load(
    options: DecodeOptions, base_dir: Path, base_only: bool, *, device: str
) -> Iterator[tuple[_Model, Examples]]:
    """Load the model and the data set; with Submodels, there are at most as many slots as tasks."""
    adapter_path = RunFolder(options.exp).adapter
    has_file = not base_only and options.submodels is None
    adapter_checksum = checksum(adapter_path) if has_file and adapter_path.is_file() else None
    file = checkpoint.load(adapter_path) if has_file else None
    if has_file:
        warn_of_unfinished(RunFolder(options.exp))
    base = base_checkpoint.load(base_dir, device)
    adapters = None if file is None else checkpoint.restore(file, base, adapter_path)
    examples = read_examples(options.data, base, allow_pipes=options.allow_pipes, needs_text=False)
    if options.submodels is None:
        yield _Model(base, adapters, adapter_checksum=adapter_checksum), examples
    else:
        budget_bytes = round((options.submodel_mb or _SUBMODEL_MB) * 2**20)
        most_slots = len(examples.data.tasks)
        cache = SubmodelCache(options.submodels, base, budget_bytes=budget_bytes, most_slots=most_slots)
        with closing(cache) as submodels:
            yield _Model(base, submodels.stack, submodels), examples
            stats = submodels.stats()
            message = "%s: %d Submodels fit in memory; %d hits, %d misses, %d evictions"
            _LOG.info(message, options.submodels, stats.num_slots, stats.hits, stats.misses, stats.evictions)


def _number_tasks(examples: Examples, model: _Model, *, unknown: str) -> Examples:
    """Assign task ids to a data set; refuse damaged Submodels and, if so asked, unknown tasks."""
    if model.adapters is None:
        return examples
    if model.submodels is not None:
        model.submodels.check(examples.data.tasks)
    tasks = model.adapters.tasks if model.submodels is None else model.submodels.known()
    is_everyones = model.submodels is None and not model.adapters.num_per_task
    if is_everyones and unknown == "error":
        return replace(examples, task_ids=dict.fromkeys(examples.data.tasks, 0))
    return replace(examples, task_ids=number_tasks(examples.data, tasks, unknown=unknown))


def _recognise(
    adapted: AdaptedModel,
    examples: Examples,
    batch_frames: int,
    submodels: SubmodelCache | None,
    searcher: Searcher,
) -> list[Hypothesis]:
    if submodels is None:
        return recognise(adapted, examples, batch_frames, searcher=searcher)
    return recognise_with_submodels(adapted, examples, batch_frames, submodels, searcher=searcher)


def _find_search(options: DecodeOptions) -> SearchRequest:
    """Return the request with the search of the experiment, unless another is asked for."""
    path = options.exp if options.exp.is_file() else RunFolder(options.exp).config
    if options.search.search is not None or archive.is_base(options.exp) or not path.is_file():
        return options.search
    return replace(options.search, search=experiment.load(path, options.overrides).search)


def _find_base(options: DecodeOptions) -> tuple[Path, bool]:
    """Return the folder of the base model, and whether to decode with the base model alone."""
    if options.base_only and options.submodels is not None:
        raise ConfigError("--base-only leaves adapters out, but --submodels names some; use one of the two")
    if options.submodel_mb is not None and options.submodels is None:
        raise ConfigError("--submodel-mb is the memory for --submodels, which is missing; set both")
    if archive.is_base(options.exp):
        if options.overrides:
            raise ConfigError(f"{options.exp}: a base model; --set changes an experiment, name its yaml")
        return options.base or options.exp, options.submodels is None
    others = [word for word in options.overrides if not word.startswith(("base.", "base="))]
    if others:
        raise ConfigError(
            f"--set {listed(others)}: no effect on decoding, which takes base.dir alone; omit it"
        )
    if options.base is not None and options.overrides:
        raise ConfigError("--base and --set both say which base model to use; use one of the two")
    return options.base or find_base(options.exp, options.overrides), options.base_only


def _default_folder(options: DecodeOptions, base_only: bool) -> Path:
    own = options.submodels or options.exp
    parent = options.exp.parent / BASE_ALONE if base_only else own
    return RunFolder(parent).decoded(options.data.name)


def _write_record(out: Path, options: DecodeOptions, model: _Model, device: str) -> None:
    """Write the record of a model that no training left one for: the base model alone, or Submodels."""
    made = _recorded_model(out, options, model)
    if made is not None:
        write_record(
            out.parent,
            made,
            base_fingerprint=model.base.fingerprint,
            params_base=model.base.num_parameters,
            device=device,
        )


def _recorded_model(out: Path, options: DecodeOptions, model: _Model) -> RecordedModel | None:
    submodels, folder = model.submodels, RunFolder(out.parent)
    is_ours = folder.path == options.submodels or not folder.record.exists()
    if submodels is not None and out.name.startswith("decode_") and is_ours:
        num_each, tasks = submodels.stack.num_per_task, submodels.known()
        num_shared = sum(parameter.numel() for _, parameter in shared_parameters(submodels.stack))
        kind, num_all = submodels.stack.kind, num_shared + len(tasks) * num_each
        return RecordedModel(folder.path.resolve().name, kind, tasks, num_all, num_each)
    if model.adapters is None and folder.path.name == BASE_ALONE:
        return RecordedModel(BASE_ALONE, "none", (), 0, 0)
    return None
