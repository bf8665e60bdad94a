"""The training loop, for adapters and base models, in one process or under `torchrun`."""

import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import distributed

from adaptkit.data.batches import Batch, load_batches
from adaptkit.data.sampler import Batches
from adaptkit.errors import TrainingError, listed
from adaptkit.files import remove
from adaptkit.folders import RunFolder
from adaptkit.model.adapted import AdaptedModel
from adaptkit.progress import counting
from adaptkit.training.best import BestWeights, selects_by_task
from adaptkit.training.distributed import from_all, in_parallel, writing_to
from adaptkit.training.log import TrainingLog
from adaptkit.training.optimizer import PerTask, StepSettings
from adaptkit.training.plan import Plan
from adaptkit.training.precision import autocast, find_not_finite, make_scaler, seed_everything
from adaptkit.training.schedule import choose_warmup, learning_rate
from adaptkit.training.spent import with_spent
from adaptkit.training.standing import WHOLE, Measured
from adaptkit.training.state import Saved, State, refuse_another
from adaptkit.training.validation import TaskFigures, Validation, validate


def fit(adapted: AdaptedModel, plan: Plan, *, resume: bool) -> State:
    """Train for all epochs or until early stopping, and write the best weights."""
    with writing_to(plan.folder):
        return _fit(adapted, plan, resume)


def _fit(adapted: AdaptedModel, plan: Plan, resume: bool) -> State:
    if not plan.first.choices:  # else the trials were its beginning
        refuse_another(plan.folder, resume=resume)
    loop = Loop(adapted, plan)
    if resume:
        loop.state = loop.saved.restore(plan.folder) or plan.first
        loop.lengthen()
    if loop.state.is_done:
        return loop.state
    if adapted.adapters is not None and adapted.adapters.is_cached and plan.train.taps is None:
        loop.plan = plan.cached(adapted.adapters)
    loop.log.rewind(loop.state.step)
    counted = counting(str(plan.folder), loop.steps.count(), loop.state.step)
    try:
        with adapted.hooked(), loop.log, counted as advance:
            loop.start()
            while not loop.state.is_done:
                loop.run_epoch(advance)
    finally:
        loop.saved.wait()
    return loop.state


_LOG = logging.getLogger(__name__)


class Loop:
    """The state of a run: model, optimizer, loss scaler, best weights and log."""

    def __init__(self, adapted: AdaptedModel, plan: Plan):
        self.adapted, self.plan, self.options = adapted, plan, plan.options
        self.rank, self.world = (
            (distributed.get_rank(), distributed.get_world_size()) if distributed.is_initialized() else (0, 1)
        )
        self.device = next(adapted.espnet.parameters()).device
        tasks = () if adapted.adapters is None else adapted.adapters.tasks
        self.optimizer = PerTask(
            adapted.trained,
            len(tasks),
            algorithm=self.options.optimizer,
            weight_decay=self.options.weight_decay,
            decays_to_start=self.options.decays_to_start,
        )
        self.scaler = make_scaler(adapted.espnet, self.device, self.options.precision)
        has_statistics = adapted.adapters is None  # of BatchNorm, which a frozen base does not change
        self.step_module = in_parallel(adapted, adapted.trained, has_statistics=has_statistics)
        self.state = plan.first
        by_task = adapted.adapters is not None and selects_by_task(adapted.trained, self.options.select)
        self.best = BestWeights(plan, adapted.trained, tasks if by_task else ())
        self.saved = Saved(
            adapted.trained,
            self.optimizer,
            self.scaler,
            {**plan.identity, "validation metric": plan.metric, "number of processes": self.world},
            self.best.best_by_task,
            plan.refuses_longer,
        )
        self.steps = plan.steps(adapted.adapters)
        self.log = TrainingLog(plan.folder, tasks, is_active=self.rank == 0)

    def lengthen(self) -> None:
        """Go on with a finished run if more epochs are asked for, unless early stopping has ended it."""
        state = self.state
        if not state.is_done or state.epoch >= self._num_epochs:
            return
        if self.best.is_over(state):
            what = "so more epochs change nothing; train in another folder with a larger patience"
            where = self.plan.folder
            _LOG.warning("%s: early stopping ended this run after epoch %d, %s", where, state.epoch, what)
            return
        self.best.refuse_lost(state)
        self.state = replace(state, is_done=False)
        if self.rank == 0:
            self.save(waits=True)
            remove(RunFolder(self.plan.folder).record)  # until the run is finished again

    @property
    def _num_epochs(self) -> int:
        return self.state.num_epochs(self.options.max_epochs)

    def start(self) -> None:
        """Validate the start of a new run, which is kept unless training improves on it.

        The figures of a base model's random weights are only logged: they may make fewer errors than a model
        that has just learned to output nothing, as CTC models do at first, but are no alternative to it.
        """
        if self.plan.valid is not None and self.rank == 0:
            chosen = " (auto: of the validation texts)" if self.options.valid_metric == "auto" else ""
            _LOG.info("%s: validated by %s%s", self.plan.folder, self.plan.metric.upper(), chosen)
        if self.state.step == 0 and self.plan.valid is not None:
            self._validate(is_ranked=self.plan.ranks_start)
        if self.state.epoch >= self._num_epochs:  # trials have chosen no further step
            self.state = with_spent(self.state)
            self._finish()
            self.save()

    def run_epoch(self, advance: Callable[[int, str], None]) -> None:
        """Train for the rest of the epoch, then validate if due."""
        self.run_steps(self.steps.of_epoch(self.state.epoch, self.state.stopped), advance)
        self._end_epoch()

    def run_steps(self, steps: Sequence[Batches], advance: Callable[[int, str], None]) -> None:
        """Train for the rest of an epoch's steps."""
        options, epoch = self.options, self.state.epoch
        left = steps[self.state.position :]
        examples = self.plan.train.in_epoch(epoch)
        own = [self._share(indices) for step in left for indices in step]
        batches = load_batches(examples, own, options.num_workers)
        self.adapted.train()
        for step in left:
            started = time.monotonic()
            loss, norm, rate = self._step([next(batches).to(self.device) for _ in step], step)
            self._advance(time.monotonic() - started)
            self.log.step(self.state, loss=loss, grad_norm=norm, lr=rate)
            advance(1, f"epoch {epoch + 1}/{self._num_epochs}, loss {loss:.3f}")
            if self.state.step % options.save_every_steps == 0 and self.state.position < len(steps):
                self.state = with_spent(self.state)
                self.save()

    def _share(self, indices: Sequence[int]) -> list[int]:
        """Return this process's utterances of a batch.

        If the batch has fewer utterances than there are processes, some repeat its first one with weight 0.
        """
        return list(indices[self.rank :: self.world]) or [indices[0]]

    def _step(self, batches: list[Batch], step: Batches) -> tuple[float, float, float]:
        """Take an optimizer step on the mean loss over all batches and processes, separately per task."""
        settings = self._settings(step)
        with self.optimizer.taking(settings):
            return self._step_tasks(batches, step, settings)

    def _step_tasks(
        self, batches: list[Batch], step: Batches, settings: Mapping[int, StepSettings]
    ) -> tuple[float, float, float]:
        options = self.options
        seed_everything(options.seed, self.state.step, self.rank)
        loss_sum = torch.zeros((), device=self.device)
        for batch, indices in zip(batches, step, strict=True):
            count = len(indices[self.rank :: self.world])
            with autocast(self.device, options.precision):
                loss = self.step_module(batch).float() * count
            self.scaler.scale(loss * self.world).backward()  # DDP averages over processes
            loss_sum += loss.detach()
        if self.world > 1:
            distributed.all_reduce(loss_sum)
            self.optimizer.average(self.world)
        total = sum(map(len, step))
        self._refuse_not_finite(float(loss_sum), batches, "loss")
        self.scaler.unscale_(self.optimizer)
        shared = StepSettings(total, self._rate(self.state.step, WHOLE))
        self.optimizer.normalise(shared, settings)
        norm = self.optimizer.clip(options.clip_norm)
        if not self.scaler.is_enabled():  # a scaler skips steps whose gradients overflow, by design
            self._refuse_not_finite(norm, batches, "gradient")
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        used = [*settings.values(), *([shared] if self.optimizer.shared else [])]
        return float(loss_sum) / total, norm, max(each.lr for each in used)

    def _settings(self, step: Batches) -> dict[int, StepSettings]:
        """Return the number of utterances and the learning rate of each task of a step, by its id."""
        if not self.optimizer.owned:
            return {}
        utterances, task_ids = self.plan.train.data.utterances, self.plan.train.task_ids
        counts = Counter(utterances.tasks[index] for indices in step for index in indices)
        taken = self.optimizer.steps[[task_ids[task] for task in counts]].tolist()
        return {
            task_ids[task]: StepSettings(n, self._rate(steps, task))
            for (task, n), steps in zip(counts.items(), taken, strict=True)
        }

    def _rate(self, step: int, task: str) -> float:
        """Return the learning rate of a task's step, or of the run's step if `task` is WHOLE."""
        options, choices, num_steps = self.options, self.state.choices, self.steps.count(task)
        return learning_rate(
            step,
            num_steps,
            peak=choices[task].lr if choices else options.lr,
            warmup_steps=choose_warmup(options.warmup_steps, num_steps),
            schedule=options.schedule,
        )

    def _refuse_not_finite(self, value: float, batches: Sequence[Batch], what: str) -> None:
        if math.isfinite(value):
            return
        found = from_all(find_not_finite(self.adapted, batches, self.options.precision))
        named = found or from_all([utt_id for batch in batches for utt_id in batch.utt_ids])
        how = "caused by" if found else "computed over"
        raise TrainingError(
            f"{self.plan.folder}: the {what} of step {self.state.step + 1} is {value}, {how} "
            f"{listed(named)}; check their audio and text or lower train.lr; --resume starts at the last save"
        )

    def _advance(self, seconds: float) -> None:
        state = self.state
        self.state = replace(
            state, step=state.step + 1, position=state.position + 1, seconds=state.seconds + seconds
        )

    def _end_epoch(self) -> None:
        """Finish an epoch: validate if due, keep the best weights, stop if due, and save."""
        options = self.options
        epoch = self.state.epoch + 1
        is_last = epoch >= self._num_epochs
        self.state = replace(self.state, epoch=epoch, position=0, is_done=is_last)
        if self.plan.valid is not None and (epoch % options.valid_every == 0 or is_last):
            self._validate()
        self.state = with_spent(self.state)
        if self.state.is_done:
            self._finish()
        self.save()

    def _finish(self) -> None:
        """End the run: write its weights and its record."""
        self.state = replace(self.state, is_done=True)
        if self.rank == 0:
            if not self.plan.is_trial:
                self.log.warn_of_unimproved(self.state)
            self.best.finish(self.state)
            self.plan.finish(self.state)

    def _validate(self, *, is_ranked: bool = True) -> None:
        """Validate, keep the weights that improved, and stop if due."""
        started = time.monotonic()
        validation = self._measure()
        if self.plan.is_trial:
            measured = [*self.state.validations, Measured(self.state.epoch, validation.sums)]
            self.state = replace(self.state, validations=measured)
        if is_ranked:
            self.state = self.best.update(self.state, validation, writes=self.rank == 0)
        self.log.valid(self.state, validation, time.monotonic() - started)

    def _measure(self) -> Validation:
        """Validate in the first process and broadcast the result, so that all processes decide alike."""
        result: list[Validation | None] = [None]
        if self.rank == 0:
            self.adapted.eval()
            standings, plan = self.state.standings.items(), self.plan
            known = {task: TaskFigures(*s.last) for task, s in standings if s.is_stopped and s.last}
            result = [validate(self.adapted, plan.valid, self.options.batch_frames, plan.metric, known=known)]
        if self.world > 1:
            distributed.broadcast_object_list(result)
        return result[0]

    def save(self, *, waits: bool = False) -> None:
        """Write the state, and remove checkpoints that neither it nor the last one names.

        So a kill loses nothing, even while the file is completed in the background.
        """
        if self.rank > 0:
            return
        self.saved.wait()
        self.best.remove_unnamed(self.state, *self.saved.written)
        self.saved.write(self.plan.folder, self.state)
        if waits or self.state.is_done:
            self.saved.wait()
            self.best.remove_unnamed(self.state)
