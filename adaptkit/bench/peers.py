"""Training steps of other toolkits on the same batch: ESPnet's own trainer, and PEFT's LoRA."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from adaptkit.adapters import api
from adaptkit.adapters.api import AdapterConfig
from adaptkit.base.checkpoint import BaseModel
from adaptkit.base.trainer import ReferenceTrainer
from adaptkit.bench.peft import PeftModel
from adaptkit.bench.timed import CLIP_NORM, Meter, TimedStep, training_step
from adaptkit.data.batches import Batch
from adaptkit.model.adapted import AdaptedModel
from adaptkit.training.precision import autocast

ESPNET = "ESPnet's trainer"
_LR = 1e-6


def espnet_step(base: BaseModel, batch: Batch, *, precision: str = "float32") -> TimedStep:
    """Return full fine-tuning of a copy of the base by ESPnet's own trainer."""
    model = copy.deepcopy(base.model).requires_grad_(True)
    trainer = ReferenceTrainer(model, clip_norm=CLIP_NORM, is_mixed=precision != "float32")

    def run() -> None:
        trainer.step(batch.inputs, batch.lengths, batch.tokens, batch.token_lengths)

    slots = _slots(trainer.optimizer)
    return TimedStep(ESPNET, run, Meter(batch.inputs.device), list(model.parameters()), slots)


def peft_steps(
    base: BaseModel, entry: AdapterConfig, batch: Batch, num_tasks: int, *, precision: str = "float32"
) -> list[TimedStep]:
    """Return LoRA steps for one speaker, ours and PEFT's, and PEFT's for all speakers of the batch.

    PEFT trains one adapter at a time, so it takes the speakers in turn, each with a step over its own rows.
    """
    device = batch.inputs.device
    stack = api.build([entry], base.sites, [f"task{k}" for k in range(num_tasks)], seed=0).to(device)
    alone = api.build([entry], base.sites, ["task0"], seed=0).to(device)
    whole = batch.of_task(0)
    ours = training_step("lora, 1 speaker", AdaptedModel(base, alone).train(), whole, precision=precision)
    rows = [[r for r, task in enumerate(batch.task_ids) if task == k] for k in range(num_tasks)]
    shares = {k: batch.rows(own) for k, own in enumerate(rows) if own}
    one = _peft_step("PEFT, 1 speaker", PeftModel(base, alone), {0: whole}, precision)
    turns = _peft_step(f"PEFT, {len(shares)} in turn", PeftModel(base, stack), shares, precision)
    return [ours, one, turns]


def _peft_step(name: str, peft: PeftModel, shares: dict[int, Batch], precision: str) -> TimedStep:
    """Return a step of each task on its share of a batch: forward, backward, clipping and AdamW."""
    adapted = peft.adapted
    matrices = {task: peft.matrices(task) for task in shares}
    optimizers = {task: torch.optim.AdamW(own, lr=_LR) for task, own in matrices.items()}

    def run() -> None:
        with adapted.hooked():
            for task, batch in shares.items():
                peft.activate(task)
                with autocast(batch.inputs.device, precision):
                    loss = adapted.loss(batch)
                loss.backward()
                nn.utils.clip_grad_norm_(matrices[task], CLIP_NORM)
                optimizers[task].step()
                optimizers[task].zero_grad(set_to_none=True)

    slots = [_slots(optimizer) for optimizer in optimizers.values()]
    trained = [parameter for own in matrices.values() for parameter in own]
    device = next(iter(shares.values())).inputs.device
    return TimedStep(name, run, Meter(device), trained, lambda: [t for own in slots for t in own()])


def _slots(optimizer: torch.optim.Optimizer) -> Callable[[], list[Tensor]]:
    return lambda: [tensor for slots in optimizer.state.values() for tensor in slots.values()]
