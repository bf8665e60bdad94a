"""The folder that hypotheses go to: what it may hold already, and what is recorded of the model."""

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from adaptkit.adapters.per_task import shared_parameters
from adaptkit.decoding.models import ModelOptions, Source
from adaptkit.decoding.recognizer import Recognizer
from adaptkit.errors import AdaptkitError, ConfigError, listed
from adaptkit.files import checksum
from adaptkit.folders import DecodeFolder, RunFolder
from adaptkit.records import RecordedModel, RunRecord
from adaptkit.scoring.origin import find_way
from adaptkit.submodels.files import SHARED_FILE

BASE_ALONE = "none"  # the experiment without adapters, the baseline of a report


def refuse_taken(out: DecodeFolder, usual: Path) -> None:
    """Refuse the folder of a model, of several sets or of a data directory, whose files would be lost."""
    run = RunFolder(out.path)
    taken = (run.config, run.adapter, run.model, out.path / SHARED_FILE, out.path / "wav.scp")
    found = [path.name for path in taken if path.exists()]
    found += [run.decoded(name).name for name in run.decoded_sets()]
    if found or _read_record(run.record):
        held = listed(found) or f"the {run.record.name} of an experiment"
        raise ConfigError(f"--out {out.path}: holds {held}; name another folder, such as {usual}")


def refuse_foreign(out: DecodeFolder, options: ModelOptions, source: Source, usual: Path) -> None:
    """Refuse a folder in which a report would take the hypotheses for those of another model."""
    if not _is_reported(out) or _is_own(out.run, options, source):
        return
    holder, name = out.run.path, out.run.path.resolve().name
    held = _list_models(out.run)
    if held:
        what = f"{holder} holds {listed(held)} of another model, whose results these would seem to be"
    elif name == BASE_ALONE and not source.base_only:
        what = f"results in a folder called '{BASE_ALONE}' are those of the base model alone"
    else:
        return
    raise ConfigError(f"--out {out.path}: {what}; name another folder, such as {usual}")


def describe_model(
    out: DecodeFolder, options: ModelOptions, source: Source, model: Recognizer
) -> RecordedModel | None:
    """Describe the model for a `run.json` beside the hypotheses; None if they are not reported or it has one.

    A record of other weights that belongs to hypotheses of further sets is a ConfigError.
    """
    folder, is_own = out.run, _is_own(out.run, options, source)
    if not _is_reported(out) or (is_own and model.submodels is None and _list_models(folder)):
        return None
    made = _describe(folder.path.resolve().name, model)
    others = [name for name in folder.decoded_sets() if name != out.name]
    before = _read_record(folder.record)
    if before is None or is_own or not others:
        return made
    kept = (before.kind, before.tasks, before.params_trainable)
    if kept != (made.kind, list(made.tasks), made.num_trainable):
        figures = f"{before.kind}, {before.params_trainable:,} parameters"
        what = f"{folder.path} has results of another model ({figures}) on {listed(others)}"
        raise ConfigError(f"--out {out.path}: {what}; name another folder")
    return made


def sum_weights(model: Recognizer, tasks: Iterable[str], folder: Path) -> dict[str, int]:
    """Return the files with the weights of some tasks, relative to a folder, and the CRC-32 of each."""
    sums = dict(model.sums)
    if model.submodels is not None:
        sums |= {path: checksum(path) for path in model.submodels.files(tasks)}
    return {find_way(path, folder): own for path, own in sums.items()}


def _is_reported(out: DecodeFolder) -> bool:
    """Whether `adaptkit report` finds the folder."""
    return out.path.name.startswith("decode_")


def _is_own(folder: RunFolder, options: ModelOptions, source: Source) -> bool:
    """Whether a folder is that of the model which decodes."""
    own = source.base.dir if source.base_only else options.submodels or options.exp
    return folder.path.resolve() == Path(own).resolve()


def _list_models(folder: RunFolder) -> list[str]:
    """List the files of models in a folder."""
    paths = (folder.adapter, folder.model, folder.state, folder.path / SHARED_FILE)
    return [path.name for path in paths if path.exists()]


def _read_record(path: Path) -> RunRecord | None:
    """Read the `run.json` of an experiment; None if there is none, or another file of that name."""
    with suppress(AdaptkitError):
        return RunRecord.read(path)
    return None


def _describe(name: str, model: Recognizer) -> RecordedModel:
    """Describe a model for its record."""
    if model.submodels is not None:
        stack, tasks = model.submodels.stack, model.submodels.known()
        num_shared = sum(parameter.numel() for _, parameter in shared_parameters(stack))
        counts = num_shared + len(tasks) * stack.num_per_task, stack.num_per_task
        return RecordedModel(name, stack.kind, tasks, *counts)
    if model.adapters is None:
        return RecordedModel(name, "none", (), 0, 0)
    stack = model.adapters
    return RecordedModel(name, stack.kind, stack.tasks, stack.num_parameters, stack.num_per_task)
