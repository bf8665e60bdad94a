"""An optimizer with separate state per task, so that one job trains each task as a job of its own would.

Per-task weights have their own learning rate, step count, moments, gradient clipping and weight decay; if a
task is absent from a step, its weights and optimizer state stay bit-identical. AdamW over a stacked parameter
would not do: its momentum moves the rows of absent tasks, and its step count is that of the whole job. Shared
weights use torch's own optimizer.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from adaptkit.adapters.per_task import task_parameters

_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8  # torch's defaults, also for the shared weights


@dataclass(frozen=True)
class StepSettings:
    """Settings of one optimizer step, for a task's weights or for the shared ones."""

    num_utterances: int  # over which the loss is averaged
    lr: float


class PerTask:
    """AdamW or plain SGD over per-task and shared weights, with decoupled weight decay in both.

    Gradients come from the sum of the utterances' losses; `normalise` turns them into gradients of means.
    """

    def __init__(self, module: nn.Module, num_tasks: int, *, algorithm: str, weight_decay: float):
        owned = dict(task_parameters(module))
        wanted = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self.owned = [wanted[name] for name in owned if name in wanted]
        self.shared = [p for name, p in wanted.items() if name not in owned]
        self.algorithm, self.weight_decay = algorithm, weight_decay
        self.inner = _of_torch(self.shared, algorithm, weight_decay) if self.shared else None
        device = next(iter(wanted.values())).device
        self.steps = torch.zeros(num_tasks, dtype=torch.long)  # taken so far by each task
        size = (num_tasks if self.owned and algorithm == "adamw" else 0, self._num_per_task())
        self.moments = torch.zeros(2, *size, device=device)  # of the gradient and of its square (2, K, P)
        self.present: list[int] = []  # tasks of the next step
        self.rates = self.gradients = torch.empty(0)  # their learning rates (n, 1), and gradients (n, P)

    @property
    def param_groups(self) -> list[dict[str, list[nn.Parameter]]]:
        """The parameters, in the form in which GradScaler looks for gradients."""
        return [{"params": [*self.shared, *self.owned]}]

    def normalise(self, shared: StepSettings, tasks: Mapping[int, StepSettings]) -> None:
        """Divide the gradients by each task's number of utterances, and set the learning rates."""
        for parameter in self.shared:
            if parameter.grad is not None:  # None for a layer that stochastic depth skipped
                parameter.grad /= shared.num_utterances
        if self.inner is not None:
            self.inner.param_groups[0]["lr"] = shared.lr
        self.present = sorted(tasks) if self.owned else []
        if not self.present:
            return
        own = [tasks[task] for task in self.present]
        device = self.moments.device
        self.rates = torch.tensor([[settings.lr] for settings in own], device=device)
        counts = torch.tensor([[float(settings.num_utterances)] for settings in own], device=device)
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.owned]
        self.gradients = self._rows(gradients) / counts

    def clip(self, limit: float | None) -> float:
        """Clip the norms of the shared and each task's gradient; return the largest norm before clipping."""
        largest = 0.0
        if self.shared:
            largest = float(nn.utils.clip_grad_norm_(self.shared, limit or math.inf))
        if self.present:
            # row by row: the summation order of a batched norm may depend on the number of rows
            norms = torch.stack([torch.linalg.vector_norm(row) for row in self.gradients])
            largest = float(torch.cat([norms, norms.new_tensor([largest])]).max())  # max keeps nan
            self.gradients = self.gradients * ((limit or math.inf) / (norms + 1e-6)).clamp(max=1.0)[:, None]
        return largest

    def step(self) -> None:
        """Take an optimizer step; rows of absent tasks do not change."""
        if self.inner is not None:
            self.inner.step()
        if self.present:
            self.steps[self.present] += 1
            self._step_tasks()

    def zero_grad(self) -> None:
        """Release the gradients."""
        for parameter in (*self.shared, *self.owned):
            parameter.grad = None
        self.present, self.gradients = [], torch.empty(0)

    def tensors(self) -> dict[str, Tensor]:
        """Return the optimizer state needed to resume."""
        slots = self.inner.state_dict()["state"] if self.inner is not None else {}
        inner = {f"shared.{i}.{name}": torch.as_tensor(t) for i, s in slots.items() for name, t in s.items()}
        return {"steps": self.steps, "moments": self.moments, **inner}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Load a state returned by `tensors`."""
        self.steps.copy_(tensors["steps"])
        self.moments.copy_(tensors["moments"])
        slots: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith("shared."):
                _, index, slot = name.split(".")
                slots.setdefault(int(index), {})[slot] = tensor
        if self.inner is not None:
            self.inner.load_state_dict({**self.inner.state_dict(), "state": slots})

    def _step_tasks(self) -> None:
        with torch.no_grad():
            weights = self._rows(self.owned) * (1 - self.rates * self.weight_decay)
            weights -= self.rates * (self.gradients if self.algorithm == "sgd" else self._directions())
            ids = self._ids()
            parts = weights.split([parameter[0].numel() for parameter in self.owned], dim=1)
            for parameter, own in zip(self.owned, parts, strict=True):
                parameter.index_copy_(0, ids, own.view(-1, *parameter.shape[1:]))

    def _directions(self) -> Tensor:
        """Update the moments of the present tasks, and return their AdamW update directions (n, P)."""
        ids, gradient = self._ids(), self.gradients
        first = self.moments[0].index_select(0, ids) * _BETA1 + gradient * (1 - _BETA1)
        second = self.moments[1].index_select(0, ids) * _BETA2 + gradient * gradient * (1 - _BETA2)
        self.moments[0].index_copy_(0, ids, first)
        self.moments[1].index_copy_(0, ids, second)
        counts = self.steps[self.present].double()[:, None]
        corrections = [(1 - beta**counts).float().to(ids.device) for beta in (_BETA1, _BETA2)]
        return (first / corrections[0]) / ((second / corrections[1]).sqrt() + _EPSILON)

    def _rows(self, tables: list[Tensor]) -> Tensor:
        """Concatenate the present tasks' slices of all parameters (n, P)."""
        ids = self._ids()
        return torch.cat([table.detach().index_select(0, ids).flatten(1) for table in tables], dim=1)

    def _ids(self) -> Tensor:
        return torch.tensor(self.present, device=self.moments.device)

    def _num_per_task(self) -> int:
        return sum(parameter[0].numel() for parameter in self.owned)


def _of_torch(parameters: list[nn.Parameter], algorithm: str, weight_decay: float) -> torch.optim.Optimizer:
    if algorithm == "adamw":
        return torch.optim.AdamW(parameters, weight_decay=weight_decay, betas=(_BETA1, _BETA2), eps=_EPSILON)
    return _DecoupledSGD(parameters, weight_decay=weight_decay)


class _DecoupledSGD(torch.optim.SGD):
    """Plain SGD with decoupled weight decay, as in AdamW."""

    def __init__(self, parameters: list[nn.Parameter], *, weight_decay: float):
        super().__init__(parameters, lr=0.0)
        self.decay = weight_decay

    def step(self, closure: None = None) -> None:
        with torch.no_grad():
            for group in self.param_groups:
                for parameter in group["params"]:
                    parameter *= 1 - group["lr"] * self.decay
        super().step()
