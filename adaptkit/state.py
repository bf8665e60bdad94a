"""Where a training run stands, and the file that a stopped run goes on from."""

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from adaptkit import checkpoint
from adaptkit.base.checkpoint import load_strictly
from adaptkit.errors import CheckpointError, listed

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class State:
    """Where a run stands; with the weights and the optimiser's tensors, all that resuming needs."""

    step: int = 0
    epoch: int = 0
    position: int = 0  # batches of the epoch already used
    seconds: float = 0.0
    validations_since_best: int = 0
    best: list[list[float]] = field(default_factory=list)  # [wer, loss, step], best first
    is_done: bool = False


def path_in(folder: Path) -> Path:
    """Name the file of a run's state."""
    return folder / "state.safetensors"


def refuse_another(folder: Path, *, resume: bool) -> None:
    """Refuse to start a run where there is one already, unless it is to go on."""
    if path_in(folder).exists() and not resume:
        raise CheckpointError(
            f"{folder}: holds a run already; --resume goes on with it, removing it starts over"
        )


def remove_leftovers(folder: Path) -> None:
    """Remove what a run was writing when it was killed (see files.replacing)."""
    for path in folder.glob(".*.partial*"):
        path.unlink()


@dataclass(frozen=True)
class Saved:
    """What of a run lies in its file."""

    module: nn.Module  # what is trained
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    identity: Mapping[str, Any]  # what a resumed run must have in common with the one that was stopped

    def write(self, folder: Path, state: State) -> None:
        """Write everything that resuming needs, atomically."""
        tensors = {f"weights.{name}": tensor for name, tensor in self.module.state_dict().items()}
        for index, slots in self.optimizer.state_dict()["state"].items():
            tensors.update(
                {f"optimizer.{index}.{name}": torch.as_tensor(slot) for name, slot in slots.items()}
            )
        header = {"state": asdict(state), "identity": self.identity, "scaler": self.scaler.state_dict()}
        checkpoint.write_tensors(path_in(folder), tensors, header)

    def restore(self, folder: Path) -> State:
        """Go on where the last save was, at the start if there is none; other settings are refused."""
        path = path_in(folder)
        if not path.exists():
            _LOG.info("%s: nothing to resume, starting", folder)
            return State()
        tensors, header = checkpoint.read_tensors(path)
        self._refuse_other(header["identity"], path)
        weights, slots = _split(tensors)
        load_strictly(self.module, weights, path)
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": slots})
        self.scaler.load_state_dict(header["scaler"])
        state = State(**header["state"])
        _LOG.info("%s: resumed at step %d, epoch %d", folder, state.step, state.epoch + 1)
        return state

    def _refuse_other(self, saved: Mapping[str, Any], path: Path) -> None:
        changed = [
            f"{key} ({saved.get(key)}, now {self.identity.get(key)})"
            for key in sorted({*saved, *self.identity})
            if saved.get(key) != self.identity.get(key)
        ]
        if changed:
            raise CheckpointError(
                f"{path}: saved by a run with another {listed(changed, 5)}; resume with its settings, "
                "or remove the folder to start over"
            )


def _split(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[int, dict[str, Tensor]]]:
    """Take the weights, and the optimiser's slots by the index of their parameter, out of a file."""
    weights: dict[str, Tensor] = {}
    slots: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        kind, _, rest = name.partition(".")
        if kind == "weights":
            weights[rest] = tensor
        else:
            index, _, slot = rest.partition(".")
            slots.setdefault(int(index), {})[slot] = tensor
    return weights, slots
