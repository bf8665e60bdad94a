"""The training loop, one for adapters and base models alike, and under `torchrun`."""

import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from adaptkit import checkpoint, taps
from adaptkit.adapters.api import AdapterStack
from adaptkit.batches import Batch, load_batches, shuffle_batches
from adaptkit.decode import Validation, validate
from adaptkit.errors import TrainingError, listed
from adaptkit.examples import Examples
from adaptkit.experiment import Training
from adaptkit.journal import Journal
from adaptkit.objective import Objective, autocast, find_not_finite, learning_rate, seed_everything
from adaptkit.progress import counting
from adaptkit.state import Saved, State, refuse_another, remove_leftovers


@dataclass(frozen=True)
class Plan:
    """What a run trains on and validates with, where it goes, and how."""

    train: Examples
    valid: Examples
    folder: Path
    options: Training
    identity: Mapping[str, Any]  # what a resumed run must have in common with the one that was stopped
    write: Callable[[Mapping[str, Tensor], int], None]  # puts weights of a step where decoding finds them
    finish: Callable[[State], None]  # leaves the record of a run that is over

    def batches(self, epoch: int, adapters: AdapterStack | None = None) -> list[list[int]]:
        """Plan the batches of an epoch, in which `adapters` are trained."""
        frames, seed = self.options.batch_frames, self.options.seed
        groups = self.train.groups(adapters)
        return shuffle_batches(self.train.lengths, frames, seed=seed, epoch=epoch, groups=groups)

    def cached(self, adapters: AdapterStack) -> "Plan":
        """Take what the encoder gives from EXP/taps, written first unless it is there, for both sets."""
        folder, frames = self.folder / "taps", self.options.batch_frames
        train = taps.cached(self.train, adapters, folder / "train", batch_frames=frames)
        valid = taps.cached(self.valid, adapters, folder / "valid", batch_frames=frames)
        return replace(self, train=train, valid=valid)


def fit(objective: Objective, plan: Plan, *, resume: bool) -> State:
    """Train until the epochs are over or validation has stopped improving; leave the best weights written."""
    refuse_another(plan.folder, resume=resume)
    loop = _Loop(objective, plan)
    if resume:
        loop.state = loop.saved.restore(plan.folder)
    if loop.state.is_done:
        return loop.state
    if loop.rank == 0:
        remove_leftovers(plan.folder)
    if objective.adapters is not None and objective.adapters.is_cached:
        loop.plan = plan.cached(objective.adapters)
    loop.journal.rewind(loop.state.step)
    with objective.hooked(), loop.journal:
        while not loop.state.is_done:
            loop.run_epoch()
    return loop.state


class _Loop:
    """The parts of a run that live as long as it does."""

    def __init__(self, objective: Objective, plan: Plan):
        self.objective, self.plan, self.options = objective, plan, plan.options
        self.rank, self.world = (
            (distributed.get_rank(), distributed.get_world_size()) if distributed.is_initialized() else (0, 1)
        )
        self.device = next(objective.model.parameters()).device
        self.parameters = [p for p in objective.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=self.options.lr, weight_decay=self.options.weight_decay
        )
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.options.precision == "float16")
        self.step_module: nn.Module = objective
        if self.world > 1:
            self.step_module = DistributedDataParallel(
                objective, broadcast_buffers=objective.adapters is None, find_unused_parameters=False
            )
        self.saved = Saved(objective.trained, self.optimizer, self.scaler, plan.identity)
        self.num_steps = sum(
            math.ceil(len(plan.batches(epoch, objective.adapters)) / self.options.accumulate)
            for epoch in range(self.options.max_epochs)
        )
        self.state = State()
        self.journal = Journal(plan.folder, is_active=self.rank == 0)

    def run_epoch(self) -> None:
        """Train over what is left of the epoch, then validate if it is time to."""
        options, epoch = self.options, self.state.epoch
        plan = self.plan.batches(epoch, self.objective.adapters)
        left = [self._share(indices) for indices in plan[self.state.position :]]
        examples = self.plan.train.in_epoch(epoch)
        batches = load_batches(examples, [own for own, _ in left], options.num_workers)
        self.objective.train()
        what = f"{self.plan.folder} epoch {epoch + 1}/{options.max_epochs}"
        with counting(what, len(plan), self.state.position) as advance:
            for start in range(0, len(left), options.accumulate):
                group = left[start : start + options.accumulate]
                started = time.monotonic()
                loss, norm, rate = self._step([next(batches).to(self.device) for _ in group], group)
                self._advance(len(group), time.monotonic() - started)
                self.journal.step(self.state, loss=loss, grad_norm=norm, lr=rate)
                advance(len(group), f"loss {loss:.3f}")
                if self.state.step % options.save_every_steps == 0 and self.state.position < len(plan):
                    self.save()
        self._end_epoch()

    def _share(self, indices: Sequence[int]) -> tuple[list[int], tuple[int, int]]:
        """Give this process's utterances of a batch, and how many count of how many in the whole batch.

        A batch smaller than the number of processes leaves some with a borrowed utterance that counts for
        nothing.
        """
        own = list(indices[self.rank :: self.world])
        return own or [indices[0]], (len(own), len(indices))

    def _step(self, batches: list[Batch], group: Sequence[Any]) -> tuple[float, float, float]:
        """Take one optimiser step on the mean loss over all utterances of all batches and processes."""
        options = self.options
        seed_everything(options.seed, self.state.step, self.rank)
        total = sum(whole for _, (_, whole) in group)
        loss_sum = torch.zeros((), device=self.device)
        for batch, (_, (own, _)) in zip(batches, group, strict=True):
            with autocast(self.device, options.precision):
                loss = self.step_module(batch).float() * (own / total)
            self.scaler.scale(loss * self.world).backward()  # DDP averages over processes
            loss_sum += loss.detach()
        if self.world > 1:
            distributed.all_reduce(loss_sum)
        self._refuse_not_finite(float(loss_sum), batches, "loss")
        rate = learning_rate(
            self.state.step,
            self.num_steps,
            peak=options.lr,
            warmup_steps=options.warmup_steps,
            schedule=options.schedule,
        )
        for part in self.optimizer.param_groups:
            part["lr"] = rate
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.parameters, options.clip_norm or math.inf)
        if not self.scaler.is_enabled():  # a scaler skips steps whose gradients overflow, by design
            self._refuse_not_finite(float(norm), batches, "gradient")
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return float(loss_sum), float(norm), rate

    def _refuse_not_finite(self, value: float, batches: Sequence[Batch], what: str) -> None:
        if math.isfinite(value):
            return
        found = find_not_finite(self.objective, batches, self.options.precision)
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

    def _advance(self, num_batches: int, seconds: float) -> None:
        state = self.state
        self.state = replace(
            state,
            step=state.step + 1,
            position=state.position + num_batches,
            seconds=state.seconds + seconds,
        )

    def _end_epoch(self) -> None:
        """Turn to the next epoch; validate, keep the best, stop if it is time to, and save."""
        options = self.options
        epoch = self.state.epoch + 1
        is_last = epoch >= options.max_epochs
        self.state = replace(self.state, epoch=epoch, position=0, is_done=is_last)
        if epoch % options.valid_every == 0 or is_last:
            started = time.monotonic()
            validation = self._validate()
            self._judge(validation)
            self.journal.valid(self.state, validation, time.monotonic() - started)
        if self.state.is_done and self.rank == 0:
            self._write_average()
            self.plan.finish(self.state)
        self.save()

    def _validate(self) -> Validation:
        """Validate in the first process and tell the others, so that all take the same decisions."""
        outcome: list[Validation | None] = [None]
        if self.rank == 0:
            self.objective.eval()
            outcome = [validate(self.objective, self.plan.valid, self.options.batch_frames)]
        if self.world > 1:
            distributed.broadcast_object_list(outcome)
        return outcome[0]

    def _judge(self, validation: Validation) -> None:
        """Rank the validation among the best so far; its weights are kept while they are among them."""
        options, state = self.options, self.state
        entry = [validation.wer, validation.loss, state.step]
        best = sorted([*state.best, entry])
        is_best = best[0] == entry
        waited = 0 if is_best else state.validations_since_best + 1
        is_done = state.is_done or (options.patience is not None and waited >= options.patience)
        kept = best[: options.average]
        self.state = replace(state, best=kept, validations_since_best=waited, is_done=is_done)
        if self.rank != 0:
            return
        weights = self.objective.trained.state_dict()
        if entry in kept and options.average > 1:
            checkpoint.write_tensors(self._kept_path(state.step), weights, {"step": state.step})
        if is_best:
            self.plan.write(weights, state.step)

    def _write_average(self) -> None:
        """Replace the best weights by the average of the best few, where more than one is asked for."""
        steps = [int(step) for _, _, step in self.state.best]
        if len(steps) > 1:
            kept = [checkpoint.read_tensors(self._kept_path(step))[0] for step in steps]
            self.plan.write(checkpoint.average(kept), steps[0])

    def _kept_path(self, step: int) -> Path:
        return self.plan.folder / "checkpoints" / f"step_{step}.safetensors"

    def save(self) -> None:
        """Write the state, then remove checkpoints that it does not name; not before, for a killed run."""
        if self.rank != 0:
            return
        self.saved.write(self.plan.folder, self.state)
        if self.state.is_done:
            shutil.rmtree(self._kept_path(0).parent, ignore_errors=True)
        named = {self._kept_path(int(step)) for _, _, step in self.state.best}
        for path in self._kept_path(0).parent.glob("step_*.safetensors"):
            if path not in named:
                path.unlink()
