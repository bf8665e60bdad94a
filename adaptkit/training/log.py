"""The training log: `train.jsonl`, messages, and TensorBoard if it is installed."""

import importlib.util
import json
import logging
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from adaptkit.adapters.per_task import SHARED
from adaptkit.errors import AdaptkitError, TrainingError, listed
from adaptkit.files import explain_os_error, write_text
from adaptkit.folders import RunFolder
from adaptkit.records import read_log
from adaptkit.training.standing import WHOLE, Standing
from adaptkit.training.state import State
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
        figures = {"metric": validation.metric, "loss": validation.loss}
        figures |= {"wer": validation.wer, "cer": validation.cer}
        kept = state.list_unimproved(self.tasks)
        if self.tasks:
            figures |= {"speakers": len(validation.by_task), "quartiles": _quartiles(validation.by_task)}
            figures |= {"stopped": len(state.stopped - {WHOLE}), "unimproved": len(kept)}
        self._write("valid", state, **figures, valid_seconds=seconds)
        if self.is_active:
            if self.tasks:
                self._write_table(state, validation, kept)
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
        better = [name for name, s in state.standings.items() if s.best[0][2] == state.step]
        if state.standings.keys() <= {WHOLE, SHARED}:
            return " (best)" if better else ""
        stopped = f", {len(state.stopped)} stopped" if state.stopped else ""
        return f" (best for {len(better)} of {len(state.standings)} speakers{stopped})"

    def warn_of_unimproved(self, state: State) -> None:
        """Warn at the end of a run of the speakers that keep the weights of the start."""
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

    def _write_table(self, state: State, validation: Validation, kept: Sequence[str]) -> None:
        """Write what this validation has shown of each speaker, with its best one."""
        head = ("speaker", "metric", "last", "loss", "best", "loss_best", "step_best")
        rows = [(*head, "without_gain", "stopped", "unimproved")]
        unimproved = set(kept)
        for task, value in validation.by_task.items():
            standing = state.standings.get(task, Standing())
            *best, step = standing.best[0] if standing.best else [math.nan] * 3
            shown = [f"{figure:.6g}" for figure in (value, validation.loss_by_task[task], *best)]
            figures = [*shown, f"{step:.0f}"]
            flags = ["yes" if is_so else "no" for is_so in (standing.is_stopped, task in unimproved)]
            rows.append((task, validation.metric, *figures, str(standing.waited), *flags))
        write_text(RunFolder(self.path.parent).validation, "".join("\t".join(row) + "\n" for row in rows))

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


def _quartiles(by_task: Mapping[str, float]) -> list[float | None]:
    """Return minimum, quartiles and maximum of figures; None stands for infinity, which json lacks."""
    ordered = sorted(by_task.values())
    places = [round(part * (len(ordered) - 1) / 4) for part in range(5)] if ordered else []
    return [ordered[place] if math.isfinite(ordered[place]) else None for place in places]
