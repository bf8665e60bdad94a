"""Optimisation in which every task takes steps of its own, so that one job trains as many would.

Weights that a task owns have a learning rate, a step count, moments, a bound on their gradient and weight
decay of their own, and a task that is absent from a step keeps weights and state bit for bit. Dense AdamW
over a table does not: its momentum moves the rows of absent tasks, and its step count is that of the job.
Shared weights are left to torch's own optimiser.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from adaptkit.adapters.per_task import task_parameters

_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8  # torch's defaults, as of the shared weights


@dataclass(frozen=True)
class Part:
    """What a task, or what tasks share, does in a step."""

    num_utterances: int  # over which its loss is averaged
    lr: float


class PerTask:
    """AdamW, or plain SGD, over what tasks own and what they share; weight decay is decoupled in both.

    Gradients are those of the sum of the utterances' losses; `normalise` makes them those of means.
    """

    def __init__(self, module: nn.Module, num_tasks: int, *, algorithm: str, weight_decay: float):
        owned = dict(task_parameters(module))
        wanted = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self.owned = [wanted[name] for name in owned if name in wanted]
        self.shared = [p for name, p in wanted.items() if name not in owned]
        self.algorithm, self.weight_decay = algorithm, weight_decay
        self.inner = _of_torch(self.shared, algorithm, weight_decay) if self.shared else None
        device = next(iter(wanted.values())).device
        self.steps = torch.zeros(num_tasks, dtype=torch.long)  # that each task has taken
        size = (num_tasks if self.owned and algorithm == "adamw" else 0, self._numbers())
        self.moments = torch.zeros(2, *size, device=device)  # of the gradient and of its square (2, K, P)
        self.present: list[int] = []  # tasks of the coming step
        self.rates = self.gradients = torch.empty(0)  # their learning rates (n, 1), and gradients (n, P)

    @property
    def is_by_task(self) -> bool:
        """Tell whether every number that is trained is some task's own."""
        return bool(self.owned) and not self.shared

    @property
    def param_groups(self) -> list[dict[str, list[nn.Parameter]]]:
        """Give the parameters as GradScaler looks for their gradients."""
        return [{"params": [*self.shared, *self.owned]}]

    def normalise(self, shared: Part, tasks: Mapping[int, Part]) -> None:
        """Take the gradients of a step, each over its own number of utterances, and its learning rates."""
        for parameter in self.shared:
            if parameter.grad is not None:  # as of a layer that stochastic depth left out
                parameter.grad /= shared.num_utterances
        if self.inner is not None:
            self.inner.param_groups[0]["lr"] = shared.lr
        self.present = sorted(tasks) if self.owned else []
        if not self.present:
            return
        parts = [tasks[task] for task in self.present]
        device = self.moments.device
        self.rates = torch.tensor([[part.lr] for part in parts], device=device)
        counts = torch.tensor([[float(part.num_utterances)] for part in parts], device=device)
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.owned]
        self.gradients = self._rows(gradients) / counts

    def clip(self, limit: float | None) -> float:
        """Bound the norm of the shared gradient and of each task's; give the largest norm before."""
        largest = 0.0
        if self.shared:
            largest = float(nn.utils.clip_grad_norm_(self.shared, limit or math.inf))
        if self.present:
            # row by row, since the order of a sum over many rows at once may depend on how many there are
            norms = torch.stack([torch.linalg.vector_norm(row) for row in self.gradients])
            largest = float(torch.cat([norms, norms.new_tensor([largest])]).max())  # max keeps nan
            self.gradients = self.gradients * ((limit or math.inf) / (norms + 1e-6)).clamp(max=1.0)[:, None]
        return largest

    def step(self) -> None:
        """Take the step; rows of absent tasks are not touched."""
        if self.inner is not None:
            self.inner.step()
        if self.present:
            self.steps[self.present] += 1
            self._step_tasks()

    def zero_grad(self) -> None:
        """Let go of the gradients."""
        for parameter in (*self.shared, *self.owned):
            parameter.grad = None
        self.present, self.gradients = [], torch.empty(0)

    def tensors(self) -> dict[str, Tensor]:
        """Give all that resuming needs."""
        slots = self.inner.state_dict()["state"] if self.inner is not None else {}
        inner = {f"shared.{i}.{name}": torch.as_tensor(t) for i, s in slots.items() for name, t in s.items()}
        return {"steps": self.steps, "moments": self.moments, **inner}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what `tensors` gave."""
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
        """Move the moments of the present tasks on, and give where AdamW goes (n, P)."""
        ids, gradient = self._ids(), self.gradients
        first = self.moments[0].index_select(0, ids) * _BETA1 + gradient * (1 - _BETA1)
        second = self.moments[1].index_select(0, ids) * _BETA2 + gradient * gradient * (1 - _BETA2)
        self.moments[0].index_copy_(0, ids, first)
        self.moments[1].index_copy_(0, ids, second)
        counts = self.steps[self.present].double()[:, None]
        corrections = [(1 - beta**counts).float().to(ids.device) for beta in (_BETA1, _BETA2)]
        return (first / corrections[0]) / ((second / corrections[1]).sqrt() + _EPSILON)

    def _rows(self, tables: list[Tensor]) -> Tensor:
        """Give the present tasks' slices of all tables side by side (n, P)."""
        ids = self._ids()
        return torch.cat([table.detach().index_select(0, ids).flatten(1) for table in tables], dim=1)

    def _ids(self) -> Tensor:
        return torch.tensor(self.present, device=self.moments.device)

    def _numbers(self) -> int:
        return sum(parameter[0].numel() for parameter in self.owned)


def _of_torch(parameters: list[nn.Parameter], algorithm: str, weight_decay: float) -> torch.optim.Optimizer:
    if algorithm == "adamw":
        return torch.optim.AdamW(parameters, weight_decay=weight_decay, betas=(_BETA1, _BETA2), eps=_EPSILON)
    return _DecoupledSGD(parameters, weight_decay=weight_decay)


class _DecoupledSGD(torch.optim.SGD):
    """Plain SGD, with weight decay beside the gradient as AdamW has it."""

    def __init__(self, parameters: list[nn.Parameter], *, weight_decay: float):
        super().__init__(parameters, lr=0.0)
        self.decay = weight_decay

    def step(self, closure: None = None) -> None:
        with torch.no_grad():
            for group in self.param_groups:
                for parameter in group["params"]:
                    parameter *= 1 - group["lr"] * self.decay
        super().step()
