"""The training log: `train.jsonl`, messages, and TensorBoard if it is installed."""

import importlib.util
import json
import logging
import math
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from adaptkit.adapters.per_task import SHARED
from adaptkit.errors import AdaptkitError, TrainingError, listed
from adaptkit.files import explain_os_error, write_text
from adaptkit.folders import RunFolder
from adaptkit.records import read_log
from adaptkit.training.state import WHOLE, State
from adaptkit.training.validation import Validation, describe_value

_LOG = logging.getLogger(__name__)


class TrainingLog:
    """Writes a line per optimizer step and validation; only the first process has an active log."""

    def __init__(self, folder: Path, tasks: Sequence[str], *, is_active: bool):
        self.path, self.tasks, self.is_active = RunFolder(folder).log, tasks, is_active
        self.board: Any = None

    def __enter__(self) -> "TrainingLog":
        if self.is_active:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self.file = open(self.path, "a", encoding="utf-8", buffering=1)  # a line at a time
            except OSError as error:
                raise AdaptkitError(explain_os_error(error, self.path)) from error
            if importlib.util.find_spec("tensorboard") is not None:
                from torch.utils.tensorboard import SummaryWriter

                self.board = SummaryWriter(self.path.parent / "tensorboard")
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.is_active:
            with suppress(OSError):  # the rest of a line that did not fit, which was an error before
                self.file.close()
        if self.board is not None:
            self.board.close()

    def step(self, state: State, *, loss: float, grad_norm: float, lr: float) -> None:
        """Log an optimizer step."""
        self._write("step", state, loss=loss, grad_norm=grad_norm, lr=lr)

    def valid(self, state: State, validation: Validation, seconds: float) -> None:
        """Log a validation and how long it took; step 0 is that of the start."""
        by_task = {task: rate if math.isfinite(rate) else None for task, rate in validation.by_task.items()}
        figures = {"metric": validation.metric, "loss": validation.loss}
        figures |= {"wer": validation.wer, "cer": validation.cer, "by_task": by_task}
        names = {"stopped": sorted(state.stopped), "unimproved": state.list_unimproved(self.tasks)}
        self._write("valid", state, **figures, **names, valid_seconds=seconds)
        if self.is_active:
            found = [f"valid loss {validation.loss:.3f}"]
            if validation.metric != "loss":
                found.append(describe_value(validation.metric, validation.value))
            _LOG.info(
                "%s: epoch %d, step %d, %.0f s: %s%s",
                *(self.path.parent, state.epoch, state.step, state.seconds),
                *(", ".join(found), self._mark(state)),
            )

    def _mark(self, state: State) -> str:
        """Describe which tasks improved on their best validation, and how many have stopped."""
        if state.step == 0:
            return " (the start)"
        better = [name for name, s in state.standings.items() if s.waited == 0 and not s.is_stopped]
        if state.standings.keys() <= {WHOLE, SHARED}:
            return " (best)" if better else ""
        stopped = f", {len(state.stopped)} stopped" if state.stopped else ""
        return f" (best for {len(better)} of {len(state.standings)} speakers{stopped})"

    def warn_of_unimproved(self, state: State) -> None:
        """Warn of the speakers whose weights stay those of the start, at the end of a run."""
        kept = state.list_unimproved(self.tasks)
        if kept:
            what = "no validation was better than that of the start, whose weights are kept"
            whose = f"{len(kept)} of {len(self.tasks)} speakers: {what}: {listed(kept)}"
            _LOG.warning("%s: %s", self.path.parent, what if kept == [SHARED] else whose)

    def rewind(self, step: int) -> None:
        """Remove the lines after the last save, since those steps are repeated; all of them at step 0."""
        if not self.is_active or not self.path.exists():
            return
        kept = [event for event in read_log(self.path) if step and event["step"] <= step]
        write_text(self.path, "".join(f"{json.dumps(event)}\n" for event in kept))

    def _write(self, event: str, state: State, **figures: Any) -> None:
        if not self.is_active:
            return
        place = {"event": event, "step": state.step, "epoch": state.epoch, "seconds": round(state.seconds, 3)}
        for name, value in figures.items():  # json has no nan: a float16 step whose gradient overflowed
            figures[name] = None if isinstance(value, float) and not math.isfinite(value) else value
        try:
            self.file.write(json.dumps({**place, **figures}) + "\n")
        except OSError as error:
            raise TrainingError(
                f"{self.path}: the training log cannot be written: {error.strerror}; free some space or "
                "raise the limit (ulimit -f), then continue from the last save with --resume"
            ) from error
        if self.board is not None:
            for name, value in figures.items():
                if isinstance(value, float):
                    self.board.add_scalar(f"{event}/{name}", value, state.step)
