"""Decode a folder into a folder: what `adaptkit decode` does."""

import logging
import time
from dataclasses import dataclass, replace
from pathlib import Path

from adaptkit import checkpoint, experiment, record
from adaptkit.base import checkpoint as base_checkpoint
from adaptkit.base.checkpoint import BaseModel
from adaptkit.base.padding import encoder_frames
from adaptkit.decode import Hypothesis, decode
from adaptkit.errors import listed
from adaptkit.examples import Examples, number_tasks, read_examples
from adaptkit.kaldi.tables import write_table
from adaptkit.objective import Objective

BASE_ALONE = "none"  # the experiment without adapters, which a report compares the others with
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


def decode_folder(wanted: Wanted, *, device: str) -> Path:
    """Write `text`, `utt2score` and `run.json` of a data directory; give the folder they are in.

    The base alone is an experiment of its own, `none`, beside EXP, unless `out` says where it goes.
    """
    base_dir, base_only = _find_base(wanted)
    adapter_path = wanted.exp / "adapter.safetensors"
    file = None if base_only else checkpoint.load(adapter_path)
    base = base_checkpoint.load(base_dir, device)
    adapters = checkpoint.restore(file, base, adapter_path) if file else None
    examples = read_examples(wanted.data, base, allow_pipes=wanted.allow_pipes)
    if adapters is not None:
        task_ids = number_tasks(examples.data, adapters.tasks, unknown=wanted.unknown_task)
        examples = replace(examples, task_ids=task_ids)
    short = _find_too_short(examples)
    objective = Objective(base, adapters).eval()
    started = time.monotonic()
    with objective.hooked():
        found = [*decode(objective, examples.without(short), wanted.batch_frames), *map(_nothing, short)]
    seconds = time.monotonic() - started
    out = wanted.out or _default_folder(wanted, base_only)
    write_table(out / "utt2score", {h.utt_id: f"{h.score:.4f}" for h in found})
    write_table(out / "text", {h.utt_id: h.text for h in found})
    if base_only and out.parent.name == BASE_ALONE:
        _write_base_record(out.parent, base)
    record.DecodeRecord(
        set_name=wanted.data.name,
        num_utterances=len(found),
        audio_sec=sum(examples.lengths) * base.frame_shift_ms / 1000,
        decode_seconds=seconds,
        peak_mb=record.peak_memory_mb(),
        batch_size=max(1, wanted.batch_frames // max(examples.lengths)),
        base_only=base_only,
    ).write(out / "run.json")
    return out


def _find_base(wanted: Wanted) -> tuple[Path, bool]:
    """Find the base model's folder, and whether it decodes alone; where EXP is a base model it does."""
    if (wanted.exp / "model.pth").exists():
        return wanted.base or wanted.exp, True
    settings = wanted.exp if wanted.exp.is_file() else wanted.exp / "config.yaml"
    return wanted.base or experiment.load(settings).base.dir, wanted.base_only


def _default_folder(wanted: Wanted, base_only: bool) -> Path:
    parent = wanted.exp.parent / BASE_ALONE if base_only else wanted.exp
    return parent / f"decode_{wanted.data.name}"


def _find_too_short(examples: Examples) -> list[str]:
    """Name the utterances that the encoder leaves no frame of; they are recognised as silence."""
    encoder = examples.base.model.encoder
    lengths = zip(examples.data.utterances, examples.lengths, strict=True)
    short = [utterance.utt_id for utterance, length in lengths if encoder_frames(encoder, length) < 1]
    if short:
        _LOG.warning("%s: too short for the encoder, no words: %s", examples.data.path, listed(short))
    return short


def _nothing(utt_id: str) -> Hypothesis:
    return Hypothesis(utt_id, "", 0.0)


def _write_base_record(folder: Path, base: BaseModel) -> None:
    """Leave the record of an experiment without adapters, which the report compares the others with."""
    record.RunRecord(
        name=BASE_ALONE,
        kind="none",
        tasks=[],
        base_fingerprint=base.fingerprint,
        params_base=base.num_parameters,
        params_trainable=0,
        params_per_task=0,
        train_seconds=0.0,
        peak_mb=0.0,
        epochs=0,
        steps=0,
        seed=0,
        versions=record.collect_versions(),
        commit=record.find_commit(),
        command=record.command_line(),
    ).write(folder / "run.json")
