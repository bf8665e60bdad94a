"""The training loop, one for adapters and base models alike, and under `torchrun`."""

import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from adaptkit.data.batches import Batch, load_batches
from adaptkit.data.sampler import Batches
from adaptkit.errors import TrainingError, listed
from adaptkit.model.adapted import AdaptedModel
from adaptkit.progress import counting
from adaptkit.training.best import BestWeights
from adaptkit.training.log import TrainingLog
from adaptkit.training.optimizer import Part, PerTask
from adaptkit.training.plan import Plan
from adaptkit.training.precision import autocast, find_not_finite, seed_everything
from adaptkit.training.schedule import learning_rate
from adaptkit.training.state import WHOLE, Saved, State, refuse_another, remove_leftovers
from adaptkit.training.validation import Validation, validate


def fit(adapted: AdaptedModel, plan: Plan, *, resume: bool) -> State:
    """Train until the epochs are over or validation has stopped improving; leave the best weights written."""
    refuse_another(plan.folder, resume=resume)
    loop = _Loop(adapted, plan)
    if resume:
        loop.state = loop.saved.restore(plan.folder)
    if loop.state.is_done:
        return loop.state
    if loop.rank == 0:
        remove_leftovers(plan.folder)
    if adapted.adapters is not None and adapted.adapters.is_cached:
        loop.plan = plan.cached(adapted.adapters)
    loop.log.rewind(loop.state.step)
    with adapted.hooked(), loop.log:
        while not loop.state.is_done:
            loop.run_epoch()
    return loop.state


_FIRST_SCALE = 2.0**11  # of float16's loss, which is a sum over utterances; torch's 2^16 is meant for means


class _Loop:
    """The parts of a run that live as long as it does."""

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
        )
        is_scaled = self.options.precision == "float16"
        self.scaler = torch.amp.GradScaler(self.device.type, init_scale=_FIRST_SCALE, enabled=is_scaled)
        self.step_module: nn.Module = adapted
        if self.world > 1:
            self.step_module = DistributedDataParallel(
                adapted, broadcast_buffers=adapted.adapters is None, find_unused_parameters=False
            )
        self.state = State()
        self.best = BestWeights(plan, adapted.trained, tasks if self.optimizer.is_by_task else ())
        self.saved = Saved(
            adapted.trained, self.optimizer, self.scaler, plan.identity, self.best.best_by_task
        )
        self.num_steps = plan.count_steps(adapted.adapters)
        self.log = TrainingLog(plan.folder, is_active=self.rank == 0)

    def run_epoch(self) -> None:
        """Train over what is left of the epoch, then validate if it is time to."""
        options, epoch = self.options, self.state.epoch
        steps = self.plan.steps(epoch, self.adapted.adapters, self.state.stopped)
        left = steps[self.state.position :]
        examples = self.plan.train.in_epoch(epoch)
        own = [self._share(indices) for step in left for indices in step]
        batches = load_batches(examples, own, options.num_workers)
        self.adapted.train()
        what = f"{self.plan.folder} epoch {epoch + 1}/{options.max_epochs}"
        with counting(what, len(steps), self.state.position) as advance:
            for step in left:
                started = time.monotonic()
                loss, norm, rate = self._step([next(batches).to(self.device) for _ in step], step)
                self._advance(time.monotonic() - started)
                self.log.step(self.state, loss=loss, grad_norm=norm, lr=rate)
                advance(1, f"loss {loss:.3f}")
                if self.state.step % options.save_every_steps == 0 and self.state.position < len(steps):
                    self.save()
        self._end_epoch()

    def _share(self, indices: Sequence[int]) -> list[int]:
        """Give this process's utterances of a batch.

        A batch smaller than the number of processes leaves some with a borrowed utterance that counts for
        nothing.
        """
        return list(indices[self.rank :: self.world]) or [indices[0]]

    def _step(self, batches: list[Batch], step: Batches) -> tuple[float, float, float]:
        """Take a step on the mean loss over all utterances of all batches and processes, task by task."""
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
        total = sum(map(len, step))
        self._refuse_not_finite(float(loss_sum), batches, "loss")
        self.scaler.unscale_(self.optimizer)
        rate = self._normalise(step, total)
        norm = self.optimizer.clip(options.clip_norm)
        if not self.scaler.is_enabled():  # a scaler skips steps whose gradients overflow, by design
            self._refuse_not_finite(norm, batches, "gradient")
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        return float(loss_sum) / total, norm, rate

    def _normalise(self, step: Batches, total: int) -> float:
        """Average what each part learns from over its own utterances, and give the highest learning rate."""
        utterances, task_ids = self.plan.train.data.utterances, self.plan.train.task_ids
        counts = Counter(utterances[index].task for indices in step for index in indices)
        taken = self.optimizer.steps.tolist()
        shared = Part(total, self._rate(self.state.step, WHOLE))
        tasks = {}
        if self.optimizer.owned:
            named = {task: (task_ids[task], count) for task, count in counts.items()}
            tasks = {index: Part(n, self._rate(taken[index], task)) for task, (index, n) in named.items()}
        self.optimizer.normalise(shared, tasks)
        parts = [*tasks.values(), *([shared] if self.optimizer.shared else [])]
        return max(part.lr for part in parts)

    def _rate(self, step: int, part: str) -> float:
        """Give the learning rate of a step of a task's own, or of the run's."""
        options = self.options
        return learning_rate(
            step,
            self.num_steps[part],
            peak=options.lr,
            warmup_steps=options.warmup_steps,
            schedule=options.schedule,
        )

    def _refuse_not_finite(self, value: float, batches: Sequence[Batch], what: str) -> None:
        if math.isfinite(value):
            return
        found = find_not_finite(self.adapted, batches, self.options.precision)
        found = self._from_all(found)
        named = found or self._from_all([utt_id for batch in batches for utt_id in batch.utt_ids])
        how = "these alone" if found else "these together"
        raise TrainingError(
            f"{self.plan.folder}: the {what} of step {self.state.step + 1} is {value}, from {how}: "
            f"{listed(named)}. Look at audio and text or lower train.lr; --resume starts at the last save"
        )

    def _from_all(self, names: list[str]) -> list[str]:
        """Join the names that each process found."""
        gathered = [names] * self.world
        if self.world > 1:
            distributed.all_gather_object(gathered, names)
        return sorted(set().union(*gathered))

    def _advance(self, seconds: float) -> None:
        state = self.state
        self.state = replace(
            state, step=state.step + 1, position=state.position + 1, seconds=state.seconds + seconds
        )

    def _end_epoch(self) -> None:
        """Turn to the next epoch; validate, keep the best, stop if it is time to, and save."""
        options = self.options
        epoch = self.state.epoch + 1
        is_last = epoch >= options.max_epochs
        self.state = replace(self.state, epoch=epoch, position=0, is_done=is_last)
        if self.plan.valid is not None and (epoch % options.valid_every == 0 or is_last):
            started = time.monotonic()
            validation = self._validate()
            self.state = self.best.judge(self.state, validation, writes=self.rank == 0)
            self.log.valid(self.state, validation, time.monotonic() - started)
        if self.state.is_done and self.rank == 0:
            self.best.finish(self.state)
            self.plan.finish(self.state)
        self.save()

    def _validate(self) -> Validation:
        """Validate in the first process and tell the others, so that all take the same decisions."""
        outcome: list[Validation | None] = [None]
        if self.rank == 0:
            self.adapted.eval()
            outcome = [validate(self.adapted, self.plan.valid, self.options.batch_frames)]
        if self.world > 1:
            distributed.broadcast_object_list(outcome)
        return outcome[0]

    def save(self) -> None:
        """Write the state, then remove checkpoints that it does not name; not before, for a killed run."""
        if self.rank == 0:
            self.saved.write(self.plan.folder, self.state)
            self.best.remove_unnamed(self.state)
