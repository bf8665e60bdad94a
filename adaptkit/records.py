"""Records of training and decoding runs: run.json and train.jsonl."""

import json
import logging
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AliasChoices, Field, TypeAdapter, ValidationError

from adaptkit import provenance
from adaptkit.errors import AdaptkitError, CheckpointError, listed
from adaptkit.files import (
    explain_os_error,
    parse_json,
    read_text,
    remove,
    require_regular,
    split_lines,
    write_text,
)
from adaptkit.folders import RunFolder

Count = Annotated[int, Field(ge=0, le=10**15)]
Amount = Annotated[float, Field(ge=0, le=1e12, allow_inf_nan=False)]  # of seconds or MB
Record = TypeVar("Record", "RunRecord", "DecodeRecord")
log = logging.getLogger(__name__)
MOST_NAMED = 100  # speakers in a record itself
_NUM_SHOWN = 5  # of more
_TABLE_HEAD = ("speaker", "weights")  # trained, or those of the start
_MOST_SHOWN = 1e12  # of a loss, in a chart


@dataclass(frozen=True)
class RunRecord:
    """A finished training run, `run.json` in its folder; the base model alone has kind `none`."""

    name: str  # of the experiment; shared by its runs with other seeds
    kind: str  # adapter types, joined with +
    tasks: list[str]
    base_fingerprint: str
    params_base: Annotated[int, Field(gt=0, le=10**15)]
    params_trainable: Count
    params_per_task: Count  # what one more task would add
    train_seconds: Amount
    peak_mb: Amount
    epochs: Count  # passes over the training set
    steps: Count
    seed: int
    versions: dict[str, str]
    recipe_commit: Annotated[  # of the working folder; called `commit` in earlier records
        str | None, Field(validation_alias=AliasChoices("recipe_commit", "commit"))
    ]
    command: str
    cpu_seconds: Amount = 0.0  # of all processes, start-up included; 0 if nothing was trained
    toolkit_commit: str | None = None  # of adaptkit itself, if installed from a checkout
    device: str = ""
    host: str = ""
    date: str = ""  # ISO 8601, with the offset from UTC
    unimproved: list[str] = field(default_factory=list)  # tasks that kept the weights of their start
    valid_metric: str = ""  # what the best weights were chosen by; earlier records, by WER, lack it
    selection: dict[str, dict[str, Count]] = field(default_factory=dict)  # by trials: speakers by lr, epochs

    @property
    def is_packed(self) -> bool:
        """Whether the experiment was packed from exported Submodels, not trained."""
        return bool(self.tasks) and self.epochs == 0

    def write(self, path: Path) -> None:
        """Write the record as json, atomically; of many speakers, their names into a table beside it."""
        table, content = RunFolder(path.parent).speaker_table, asdict(self)
        if len(self.tasks) > MOST_NAMED:
            kept = set(self.unimproved)
            rows = [_TABLE_HEAD, *((task, "start" if task in kept else "trained") for task in self.tasks)]
            write_text(table, "".join("\t".join(row) + "\n" for row in rows))
            content |= {name: _summarise(content[name], table) for name in ("tasks", "unimproved")}
        _write(content, path)
        if len(self.tasks) <= MOST_NAMED:
            remove(table)  # of an earlier record

    @classmethod
    def read(cls, path: Path) -> "RunRecord":
        """Read a record; CheckpointError if it is missing, damaged or incomplete."""
        command = "'adaptkit train' (for the base alone 'adaptkit decode --base-only')"
        return _read(cls, path, command, complete=_name_speakers)


@dataclass(frozen=True)
class DecodeRecord:
    """A finished decoding run, `run.json` in a `decode_<set>` folder of the experiment or base model."""

    set_name: str
    num_utterances: Count
    audio_sec: Amount
    decode_seconds: Amount
    peak_mb: Amount
    batch_size: Count
    base_only: bool
    data: str = ""  # the data directory, as it was named
    base_fingerprint: str = ""
    base: str = ""  # folder of the base model, relative to this one
    weights: dict[str, int] = field(default_factory=dict)  # files of adapters, relative to here: their CRC-32
    search: dict[str, Any] | None = None  # its options, all of them; None: greedy CTC, in earlier records
    search_reason: str = ""  # why it was chosen
    lm: str | None = None  # the file of the language model
    lm_sha256: str | None = None
    route: dict[str, Any] | None = None  # how weights were chosen; None: by the name of the speaker
    route_accuracy: Annotated[float, Field(ge=0, le=100)] | None = None  # percent with their own weights

    @property
    def rtf(self) -> float:
        """The real-time factor: seconds of decoding per second of audio; 0 without audio."""
        return self.decode_seconds / self.audio_sec if self.audio_sec else 0.0

    def write(self, path: Path) -> None:
        """Write the record as json, atomically."""
        _write(asdict(self), path)

    @classmethod
    def read(cls, path: Path) -> "DecodeRecord":
        """Read a record; CheckpointError if it is missing, damaged or incomplete."""
        return _read(cls, path, "'adaptkit decode'")


@dataclass(frozen=True)
class LearningCurves:
    """Training loss and validation WER or CER (percent) of a run, as (step, value) in order of steps."""

    loss: tuple[tuple[int, float], ...] = ()
    wer: tuple[tuple[int, float], ...] = ()
    cer: tuple[tuple[int, float], ...] = ()  # in place of WER, where it is what the weights are chosen by


def read_log(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the events of a `train.jsonl`; a line that is damaged or cut short is skipped with a warning.

    An event has a name, `event`, a `step`, and figures that are numbers or null; the rest is for the reader
    to check.
    """
    require_regular(path)
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise AdaptkitError(explain_os_error(error, path)) from error
    for number, line in enumerate(split_lines(content.decode(errors="replace")), start=1):
        try:
            event = parse_json(line)
            is_event = _is_event(event)
        except ValueError:
            is_event = False
        if is_event:
            yield event
        else:
            what = "an incomplete or damaged line is skipped, as a killed run or a full disk leaves"
            log.warning("%s:%d: %s", path, number, what)


def _is_event(event: Any) -> bool:
    """Return whether a line of a log is an event with a step, and its figures are numbers."""
    if not isinstance(event, dict) or not isinstance(event.get("event"), str):
        return False
    figures = [event[name] for name in ("loss", "wer", "cer") if event.get(name) is not None]
    step = event.get("step")
    return type(step) is int and step >= 0 and all(type(figure) in (int, float) for figure in figures)


def read_curves(path: Path) -> LearningCurves:
    """Read loss and the error rate that the weights are chosen by from a `train.jsonl`.

    A step that was logged again after resuming replaces the one logged before the run was killed.
    """
    curves: dict[str, dict[int, float]] = {"loss": {}, "wer": {}, "cer": {}}
    for event in read_log(path):
        rate = "cer" if event.get("metric") == "cer" else "wer"
        name = {"step": "loss", "valid": rate}.get(event["event"])
        value = event.get(name)
        if type(value) in (int, float) and abs(value) <= _MOST_SHOWN:  # neither nan nor inf either
            curves[name][event["step"]] = float(value)
    return LearningCurves(*(tuple(sorted(curves[name].items())) for name in ("loss", "wer", "cer")))


@dataclass(frozen=True)
class RecordedModel:
    """The fields of a record that describe the model."""

    name: str  # of the experiment
    kind: str
    tasks: Sequence[str]
    num_trainable: int
    num_per_task: int
    unimproved: Sequence[str] = ()  # tasks whose weights stayed those of the start
    valid_metric: str = ""
    selection: Mapping[str, Mapping[str, int]] = field(default_factory=dict)  # see `RunRecord`


@dataclass(frozen=True)
class Effort:
    """The time, memory, epochs and steps that training took."""

    seconds: float = 0.0
    epochs: int = 0
    steps: int = 0
    seed: int = 0
    cpu_seconds: float = 0.0  # of all processes, of those before a resume too
    peak_mb: float = 0.0  # of the process that needed most


def write_record(
    folder: Path,
    made: RecordedModel,
    *,
    base_fingerprint: str,
    params_base: int,
    device: str,
    effort: Effort | None = None,
) -> None:
    """Write `run.json` into a folder; `effort` is None if nothing was trained."""
    took = effort or Effort()
    RunRecord(
        name=made.name,
        kind=made.kind,
        tasks=list(made.tasks),
        base_fingerprint=base_fingerprint,
        params_base=params_base,
        params_trainable=made.num_trainable,
        params_per_task=made.num_per_task,
        train_seconds=took.seconds,
        peak_mb=took.peak_mb,
        epochs=took.epochs,
        steps=took.steps,
        seed=took.seed,
        versions=provenance.collect_versions(),
        recipe_commit=provenance.find_recipe_commit(),
        command=provenance.command_line(),
        cpu_seconds=took.cpu_seconds,
        toolkit_commit=provenance.find_toolkit_commit(),
        device=provenance.describe_device(device),
        host=socket.gethostname(),
        date=datetime.now().astimezone().isoformat(timespec="seconds"),
        unimproved=list(made.unimproved),
        valid_metric=made.valid_metric,
        selection={name: dict(counts) for name, counts in made.selection.items()},
    ).write(RunFolder(folder).record)


def _write(content: Mapping[str, Any], path: Path) -> None:
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def _read(
    kind: Callable[..., Record],
    path: Path,
    command: str,
    *,
    complete: Callable[[Any, Path], Any] = lambda content, path: content,
) -> Record:
    """Read a record that `command` writes; `complete` adds what is in files beside it."""
    if not Path(path).exists():
        raise CheckpointError(f"{path}: no such file; {command} writes it when it is done")
    require_regular(path)
    try:
        return TypeAdapter(kind).validate_python(complete(parse_json(read_text(path)), Path(path)))
    except ValidationError as error:
        wrong = [f"{'.'.join(map(str, e['loc'])) or 'the file'}: {e['msg']}" for e in error.errors()]
        raise CheckpointError(f"{path}: {listed(wrong)}; {command} writes it again") from None
    except ValueError as error:
        raise CheckpointError(f"{path}: the file: {error}; {command} writes it again") from None


def _summarise(names: Sequence[str], table: Path) -> dict[str, Any]:
    """Return, in place of many names, their number, the first few, and where all are."""
    return {"number": len(names), "first": list(names[:_NUM_SHOWN]), "table": table.name}


def _name_speakers(content: Any, path: Path) -> Any:
    """Put the names of many speakers, which are in a table, into the content of a record."""
    if not isinstance(content, dict) or not isinstance(content.get("tasks"), dict):
        return content
    table = RunFolder(path.parent).speaker_table
    if not table.exists():
        raise CheckpointError(
            f"{table}: no such file, though {path} has its speakers there; copy it from where the record was "
            "made, or 'adaptkit train' writes both again"
        )
    require_regular(table)
    head, *rows = (tuple(line.split("\t")) for line in split_lines(read_text(table)))
    num_named = content["tasks"].get("number")
    if head != _TABLE_HEAD or len(rows) != num_named or any(len(row) != len(head) for row in rows):
        raise CheckpointError(
            f"{table}: not the table of the {num_named} speakers of {path}; copy both from the same folder"
        )
    kept = [task for task, weights in rows if weights == "start"]
    return {**content, "tasks": [task for task, _ in rows], "unimproved": kept}
