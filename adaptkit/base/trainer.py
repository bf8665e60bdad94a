"""ESPnet's own training step (`espnet2.train.trainer.Trainer`), to compare ours with.

Only `adaptkit bench` uses it.
"""

import dataclasses
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from adaptkit.base.classes import import_class

_MODULE = "espnet2.train.trainer"
_LR = 1e-6


class ReferenceTrainer:
    """ESPnet's trainer, training all parameters of a model with AdamW."""

    def __init__(self, model: nn.Module, *, clip_norm: float, is_mixed: bool):
        """Set up training; `is_mixed` is ESPnet's `use_amp` on a GPU, in bfloat16 where supported."""
        self.model, self.optimizer = model, torch.optim.AdamW(model.parameters(), lr=_LR)
        is_cuda = next(model.parameters()).device.type == "cuda"
        self._trainer, options = (import_class(f"{_MODULE}.{name}") for name in ("Trainer", "TrainerOptions"))
        unset = dict.fromkeys(field.name for field in dataclasses.fields(options))
        wanted = {"ngpu": int(is_cuda), "accum_grad": 1, "grad_clip": clip_norm, "grad_clip_type": 2.0}
        self._options = options(**{**unset, **wanted, "grad_noise": False, "no_forward_run": False})
        self._scaler = import_class(f"{_MODULE}.GradScaler")() if is_mixed and is_cuda else None
        self._distributed = import_class("espnet2.train.distributed_utils.DistributedOption")()
        self._reporter = import_class("espnet2.train.reporter.Reporter")()
        self._reporter.set_epoch(1)

    def step(self, inputs: Tensor, lengths: Tensor, tokens: Tensor, token_lengths: Tensor) -> None:
        """Train one step, an epoch of one batch: inputs (B, T, F) or (B, N) and tokens (B, L)."""
        named = {"speech": inputs.clone(), "speech_lengths": lengths}  # ESPnet modifies it in place
        named |= {"text": tokens, "text_lengths": token_lengths}
        on_device = torch.cuda.device(inputs.device) if inputs.is_cuda else nullcontext()
        with on_device, self._reporter.observe("train") as reporter:
            self._trainer.train_one_epoch(
                model=self.model,
                iterator=[([str(row) for row in range(len(inputs))], named)],
                optimizers=[self.optimizer],
                schedulers=[None],
                scaler=self._scaler,
                reporter=reporter,
                summary_writer=None,
                options=self._options,
                distributed_option=self._distributed,
            )
