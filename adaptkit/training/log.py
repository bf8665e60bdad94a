"""What a training tells as it goes: `train.jsonl`, log lines, and TensorBoard where installed."""

import importlib.util
import json
import logging
import math
from pathlib import Path
from types import TracebackType
from typing import Any

from adaptkit.files import read_text, write_text
from adaptkit.model.recognise import Validation
from adaptkit.training.state import WHOLE, State

_LOG = logging.getLogger(__name__)


class Journal:
    """Writes a line per optimiser step and validation; an inactive one (another process's) none."""

    def __init__(self, folder: Path, *, is_active: bool):
        self.path, self.is_active = folder / "train.jsonl", is_active
        self.board: Any = None

    def __enter__(self) -> "Journal":
        if self.is_active:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.file = open(self.path, "a", encoding="utf-8", buffering=1)  # a line at a time
            if importlib.util.find_spec("tensorboard") is not None:
                from torch.utils.tensorboard import SummaryWriter

                self.board = SummaryWriter(self.path.parent / "tensorboard")
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.is_active:
            self.file.close()
        if self.board is not None:
            self.board.close()

    def step(self, state: State, *, loss: float, grad_norm: float, lr: float) -> None:
        """Note an optimiser step."""
        self._note("step", state, loss=loss, grad_norm=grad_norm, lr=lr)

    def valid(self, state: State, validation: Validation, seconds: float) -> None:
        """Note a validation, which took so many seconds."""
        figures = {"loss": validation.loss, "wer": validation.wer, "by_task": validation.by_task}
        self._note("valid", state, **figures, stopped=sorted(state.stopped), valid_seconds=seconds)
        if self.is_active:
            mark = self._mark(state)
            _LOG.info(
                "%s: epoch %d, step %d, %.0f s: valid loss %.3f, WER %.2f%s",
                *(self.path.parent, state.epoch, state.step, state.seconds),
                *(validation.loss, validation.wer, mark),
            )

    def _mark(self, state: State) -> str:
        """Say what did better than ever before, and how many tasks have stopped."""
        better = [name for name, s in state.standings.items() if s.waited == 0 and not s.is_stopped]
        if WHOLE in state.standings:
            return " (best)" if better else ""
        stopped = f", {len(state.stopped)} stopped" if state.stopped else ""
        return f" (best of {len(better)} of {len(state.standings)} tasks{stopped})"

    def rewind(self, step: int) -> None:
        """Drop the lines past a save: the steps they tell of are done again."""
        if not self.is_active or not self.path.exists():
            return
        kept = [line for line in read_text(self.path).splitlines() if _step_of(line) <= step]
        write_text(self.path, "".join(f"{line}\n" for line in kept))

    def _note(self, event: str, state: State, **figures: Any) -> None:
        if not self.is_active:
            return
        place = {"event": event, "step": state.step, "epoch": state.epoch, "seconds": round(state.seconds, 3)}
        for name, value in figures.items():  # json has no nan: float16 skips a step whose gradient overflows
            figures[name] = None if isinstance(value, float) and not math.isfinite(value) else value
        self.file.write(json.dumps({**place, **figures}) + "\n")
        if self.board is not None:
            for name, value in figures.items():
                if isinstance(value, float):
                    self.board.add_scalar(f"{event}/{name}", value, state.step)


def _step_of(line: str) -> float:
    """Give the step of a line; one that was cut short belongs to none that was saved."""
    try:
        return json.loads(line)["step"]
    except (json.JSONDecodeError, KeyError):
        return float("inf")
