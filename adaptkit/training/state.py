"""The state of a training run, its checkpoint for resuming, and the settings that must not change."""

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from adaptkit import config
from adaptkit.data.dataset import Examples
from adaptkit.errors import CheckpointError, listed
from adaptkit.experiment import Experiment
from adaptkit.files import require_regular
from adaptkit.folders import RunFolder
from adaptkit.tensors import begin_writing, load_strictly, read_tensors
from adaptkit.training.distributed import of_first
from adaptkit.training.optimizer import PerTask
from adaptkit.training.schedule import explain_longer
from adaptkit.training.standing import WHOLE, Choice, Measured, Standing, pack, unpack

_LOG = logging.getLogger(__name__)


_LENGTHS = ("train.max_epochs", "base.train.max_epochs")  # a resumed run may be longer
_NO_STATE = "not the state of this training; put its own file back, or remove the folder to start over"
# do not affect results, so may differ on resuming; the metric that is chosen is compared instead
_CHANGES_NOTHING = ("num_workers", "save_every_steps", "valid_metric")
_CHUNK = 4096  # utterances
_NOT_TRAINED_ON = ("data.test.", "base.data.test.")
_BY_CONTENT = ("train.start",)  # a path, in whose place a digest of what it names is compared
# of states that earlier versions wrote; adapters' options were part of a base model's training too
_UNSAID = {
    "validation metric": "wer",
    "number of processes": 1,
    "base.train.task_utterances": 8,
    "base.train.temperature": 1.0,
    "train.shared": False,
    "train.freeze_shared": False,
    "train.select": "auto",
    "train.min_gain": 0.0,
    "train.decay_towards": "auto",
}


@dataclass(frozen=True)
class State:
    """The progress of a run; `Saved` adds weights, best weights and optimizer state."""

    step: int = 0
    epoch: int = 0
    position: int = 0  # steps of the epoch already taken
    seconds: float = 0.0  # of steps
    cpu_seconds: float = 0.0  # of all processes up to here, start-up included; see `spent`
    peak_mb: float = 0.0
    standings: dict[str, Standing] = field(default_factory=dict)  # by task, or of WHOLE
    is_done: bool = False
    choices: dict[str, Choice] = field(default_factory=dict)  # of trials, by task and of WHOLE
    trial_epochs: int = (
        0  # of those trials, all together, beside the epochs above; their time is in the seconds
    )
    trial_steps: int = 0
    validations: list[Measured] = field(default_factory=list)  # of a trial, in order

    @property
    def stopped(self) -> frozenset[str]:
        """The tasks whose training has stopped."""
        over = {task for task, choice in self.choices.items() if task and choice.epochs <= self.epoch}
        return frozenset(over | {name for name, standing in self.standings.items() if standing.is_stopped})

    def num_epochs(self, most: int) -> int:
        """Return the number of epochs of the run: `most`, unless trials chose fewer for all tasks."""
        return max((choice.epochs for task, choice in self.choices.items() if task), default=most)

    @property
    def kept_steps(self) -> set[int]:
        """The steps whose checkpoints are among the best of a task or of the run."""
        return {int(step) for standing in self.standings.values() for _, _, step in standing.best if step}

    def list_unimproved(self, tasks: Sequence[str]) -> list[str]:
        """List the tasks whose best weights are those of the start: all or none if they share weights."""
        starts = {name for name, standing in self.standings.items() if standing.is_start}
        starts |= {task for task, choice in self.choices.items() if task and not choice.epochs}
        return [task for task in tasks if task in starts or WHOLE in starts]


def refuse_another(folder: Path, *, resume: bool) -> None:
    """Refuse to start a run in a folder that holds one, unless it is resumed, or that holds other weights."""
    is_begun, found = of_first(_look_into(RunFolder(folder), resume=resume))
    if is_begun and not resume:
        raise CheckpointError(
            f"{folder}: holds a run already; --resume continues it, or remove the folder to start over"
        )
    if found:
        raise CheckpointError(
            f"{folder}: holds {listed(found)}, which training would overwrite, and no state of a training to "
            "continue; choose another folder"
        )


def _look_into(folder: RunFolder, *, resume: bool) -> tuple[bool, list[str]]:
    """Return whether a run has begun, and otherwise the weights that none left, such as an imported model.

    A run killed before its first state has left a log; one that is finished may have lost its state since.
    """
    is_killed = folder.log.exists() if resume else folder.is_unfinished
    weights = () if folder.is_begun or is_killed else (folder.model, folder.adapter)
    return folder.is_begun, [path.name for path in weights if path.exists()]


@dataclass(frozen=True)
class Saved:
    """The parts of a run that its state file holds."""

    module: nn.Module  # what is trained
    optimizer: PerTask
    scaler: torch.amp.GradScaler
    identity: Mapping[str, Any]  # what a resumed run must share with the interrupted one
    best: dict[str, Tensor]  # best weights so far if early stopping is per task; else empty
    refuses_longer: str = ""  # why the run cannot be resumed with more epochs, and the remedy
    pending: list[Future] = field(default_factory=list)  # the write in progress, if any
    written: list[State] = field(default_factory=list)  # the state in the file, if any, or in progress

    def write(self, folder: Path, state: State) -> None:
        """Write the state file atomically, in the background once the operating system has all of it.

        The file of the previous call is complete when this one begins.
        """
        self.wait()
        parts = {
            "weights": self.module.state_dict(),
            "best": self.best,
            "optimizer": self.optimizer.tensors(),
        }
        tensors = {f"{part}.{name}": t for part, named in parts.items() for name, t in named.items()}
        header = {
            "state": {**vars(state), "validations": [], **_plain(state)},
            "identity": self.identity,
            "scaler": self.scaler.state_dict(),
        }
        if state.validations:
            tensors["validations.sums"], header["validations"] = pack(state.validations)
        finish = begin_writing(RunFolder(folder).state, tensors, header)
        self.written[:] = [state]
        thread = ThreadPoolExecutor(1)
        self.pending.append(thread.submit(finish))
        thread.shutdown(wait=False)  # it ends when the file is complete

    def wait(self) -> None:
        """Wait until the state file is complete; errors in the background are raised here."""
        while self.pending:
            self.pending.pop().result()

    def restore(self, folder: Path) -> State | None:
        """Restore the last saved state, if there is one; refuse changed settings."""
        path = RunFolder(folder).state
        if not path.exists():
            if RunFolder(folder).record.exists():
                _LOG.warning("%s: finished, but %s is gone; the training starts over", folder, path.name)
            else:
                _LOG.info("%s: nothing to resume, starting from scratch", folder)
            return None
        require_regular(path)
        tensors, header = read_tensors(path, remedy=f"remove {folder} to start over")
        state = read_state(header, path)
        self._refuse_other(header["identity"], path)
        parts: dict[str, dict[str, Tensor]] = {"weights": {}, "best": {}, "optimizer": {}}
        for name, tensor in tensors.items():
            part, _, rest = name.partition(".")
            parts.setdefault(part, {})[rest] = tensor
        load_strictly(self.module, parts["weights"], path)
        own, found = (
            {name: t.shape for name, t in tensors.items() if not name.startswith("shared.")}
            for tensors in (self.optimizer.tensors(), parts["optimizer"])
        )
        if set(self.best) != set(parts["best"]) or own != found:
            raise CheckpointError(f"{path}: {_NO_STATE}")
        self.best.update(parts["best"])
        if "validations" in parts:
            try:
                validations = unpack(parts["validations"]["sums"], header["validations"])
            except (KeyError, TypeError, ValueError) as error:
                raise CheckpointError(f"{path}: {_NO_STATE}") from error
            state = replace(state, validations=validations)
        self.optimizer.restore(parts["optimizer"])
        self.scaler.load_state_dict(header["scaler"])
        self.written[:] = [state]
        _LOG.info("%s: resumed at step %d, epoch %d", folder, state.step, state.epoch + 1)
        return state

    def _refuse_other(self, saved: Mapping[str, Any], path: Path) -> None:
        """Refuse changed settings, except more epochs; log what these mean for the learning rate."""
        old, now = ({**_UNSAID, **identity} for identity in (saved, self.identity))
        pairs = {key: (old.get(key), now.get(key)) for key in sorted({*old, *now})}
        changed = {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}
        longer = {key: pair for key, pair in changed.items() if key in _LENGTHS and _is_longer(*pair)}
        if longer and self.refuses_longer:
            raise CheckpointError(f"{path}: {self.refuses_longer}")
        others = [f"{key} ({old}, now {new})" for key, (old, new) in changed.items() if key not in longer]
        if others:
            raise CheckpointError(
                f"{path}: saved by a run with different settings: {listed(others, 5)}; resume with its "
                "settings (only max_epochs may grow), or remove the folder to start over"
            )
        for key, (old, new) in longer.items():
            section = key.rpartition(".")[0]
            schedule, warmup = (self.identity.get(f"{section}.{n}", 0) for n in ("schedule", "warmup_steps"))
            rule = explain_longer(schedule, warmup)
            _LOG.warning("%s: continues from %d to %d epochs; %s", path.parent, old, new, rule)


def read_state(header: Mapping[str, Any], path: Path) -> State:
    """Return the progress in the header of a state file; any other file is refused."""
    try:
        standings = {name: Standing(**entry) for name, entry in header["state"]["standings"].items()}
        content = {"choices": {}, **header["state"]}  # earlier states have none
        choices = {name: Choice(**entry) for name, entry in content["choices"].items()}
        state = State(**{**content, "standings": standings, "choices": choices})
        is_state = isinstance(header["identity"], dict) and isinstance(header["scaler"], dict)
        is_state = is_state and all(type(choice.epochs) is int for choice in choices.values())
    except (AttributeError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: {_NO_STATE}") from error
    if not is_state or not all(type(n) is int for n in (state.step, state.epoch, state.position)):
        raise CheckpointError(f"{path}: {_NO_STATE}")
    return state


def _plain(state: State) -> dict[str, dict[str, Any]]:
    """Return the parts of a state by task as json can represent them; `asdict` takes a second for 10,000."""
    parts = {"standings": state.standings, "choices": state.choices}
    return {name: {task: vars(one) for task, one in own.items()} for name, own in parts.items()}


def _is_longer(old: object, new: object) -> bool:
    return isinstance(old, int) and isinstance(new, int) and new > old


def identify(settings: Experiment, *sections: str) -> dict[str, Any]:
    """Return the full keys and values of the settings that a resumed run must share."""
    resolved = config.dump(settings)
    leaves = dict(_leaves({section: resolved[section] for section in sections}))
    return {
        key: value
        for key, value in leaves.items()
        if key.rpartition(".")[2] not in _CHANGES_NOTHING
        and key not in _BY_CONTENT
        and not key.startswith(_NOT_TRAINED_ON)
    }


def _leaves(content: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(content, dict | list):
        yield key, content
        return
    parts = content.items() if isinstance(content, dict) else enumerate(content)
    for name, part in parts:
        yield from _leaves(part, f"{key}.{name}" if key else str(name))


def describe_contents(train: Examples, valid: Examples | None) -> dict[str, str]:
    """Return digests of the utterances, since the contents of a data folder may have changed."""
    sets = {"training set": train, "validation set": valid}
    noise = train.augmentation.bank if train.augmentation else None
    described = {name: _digest_utterances(each) for name, each in sets.items() if each is not None}
    if noise:
        described["noise recordings"] = digest(noise.list_contents())
    return described


def _digest_utterances(examples: Examples) -> str:
    """Return the `digest` of id, task, text and length of each utterance, without one text of them all."""
    made, own = hashlib.blake2b(b"[", digest_size=8), examples.data.utterances
    rows, separator = zip(own.ids, own.tasks, own.texts, examples.lengths, strict=True), ""
    while some := list(islice(rows, _CHUNK)):
        made.update(f"{separator}{json.dumps(some, default=str)[1:-1]}".encode())
        separator = ", "
    made.update(b"]")
    return made.hexdigest()


def digest(content: object) -> str:
    """Return a digest of any object that json or str can represent."""
    return hashlib.blake2b(
        json.dumps(content, sort_keys=True, default=str).encode(), digest_size=8
    ).hexdigest()
