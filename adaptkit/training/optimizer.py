"""An optimizer with separate state per task, so that one job trains each task as a job of its own would.

Per-task weights have their own learning rate, step count, moments, gradient clipping and weight decay; if a
task is absent from a step, its weights and optimizer state stay bit-identical. AdamW over a stacked parameter
would not do: its momentum moves the rows of absent tasks, and its step count is that of the whole job. Shared
weights use torch's own optimizer. A step copies, changes and puts back the slices of its tasks alone, and
costs as much for ten thousand tasks as for ten.

Weight decay is decoupled: before a step of learning rate l, w becomes w - l d (w - a). The anchor a is zero
(Loshchilov and Hutter, Decoupled weight decay regularization, 2017, arXiv:1711.05101), or the value of w at
the start (Li et al., Explicit inductive bias for transfer learning with convolutional networks, 2018,
arXiv:1802.01483, there as a part of the loss).
"""

import math
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn

from adaptkit.adapters.per_task import taking, task_parameters

_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8  # torch's defaults, also for the shared weights


@dataclass(frozen=True)
class StepSettings:
    """Settings of one optimizer step, for a task's weights or for the shared ones."""

    num_utterances: int  # over which the loss is averaged
    lr: float


class PerTask:
    """AdamW or plain SGD over per-task and shared weights, with decoupled weight decay in both.

    Gradients come from the sum of the utterances' losses; `normalise` turns them into gradients of means.
    With `decays_to_start` weights decay towards their values now, else towards zero.
    """

    def __init__(
        self,
        module: nn.Module,
        num_tasks: int,
        *,
        algorithm: str,
        weight_decay: float,
        decays_to_start: bool = False,
    ):
        owned = dict(task_parameters(module))
        wanted = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self.owned = [wanted[name] for name in owned if name in wanted]
        self.shared = [p for name, p in wanted.items() if name not in owned]
        self.algorithm, self.weight_decay = algorithm, weight_decay
        self.inner = _of_torch(self.shared, algorithm) if self.shared else None
        device = next(iter(wanted.values())).device
        self.steps = torch.zeros(num_tasks, dtype=torch.long)  # taken so far by each task
        size = (num_tasks if self.owned and algorithm == "adamw" else 0, self._num_per_task())
        self.moments = torch.zeros(2, *size, device=device)  # of the gradient and of its square (2, K, P)
        anchored = (self.owned, self.shared) if decays_to_start and weight_decay else ((), ())
        self.own_anchors, self.shared_anchors = ([p.detach().clone() for p in part] for part in anchored)
        self.module, self.names = module, [name for name in owned if name in wanted]
        self.present: list[int] = []  # tasks of this step
        self.slices: list[Tensor] = []  # of their weights (n, ...), in the order of `owned`
        self.rates = self.gradients = torch.empty(0)  # their learning rates (n, 1), and gradients (n, P)

    @contextmanager
    def taking(self, tasks: Collection[int]) -> Iterator[None]:
        """Take a step inside the block, in which the module may be used for no other tasks than these.

        Their slices are copied, so that a step costs as much whatever the number of tasks.
        """
        self.present = sorted(tasks) if self.owned else []
        try:
            with taking(self.module, self.present) if self.present else nullcontext({}) as slices:
                self.slices = [slices[name] for name in self.names if self.present]
                yield
        finally:
            self.present, self.slices, self.gradients = [], [], torch.empty(0)

    @property
    def param_groups(self) -> list[dict[str, list[Tensor]]]:
        """The parameters of this step, in the form in which GradScaler looks for gradients."""
        return [{"params": [*self.shared, *self.slices]}]

    def average(self, num_processes: int) -> None:
        """Average the gradients of the tasks' slices over processes, all of which take the same tasks."""
        if not self.slices:
            return
        flat = torch.cat([slices.grad.flatten() for slices in self._with_gradients()])
        distributed.all_reduce(flat)
        parts = (flat / num_processes).split([slices.numel() for slices in self.slices])
        for slices, part in zip(self.slices, parts, strict=True):
            slices.grad.copy_(part.view_as(slices))

    def normalise(self, shared: StepSettings, tasks: Mapping[int, StepSettings]) -> None:
        """Divide the gradients by each task's number of utterances, and set the learning rates."""
        for parameter in self.shared:
            if parameter.grad is not None:  # None for a layer that stochastic depth skipped
                parameter.grad /= shared.num_utterances
        if self.inner is not None:
            self.inner.param_groups[0]["lr"] = shared.lr
        if not self.present:
            return
        own = [tasks[task] for task in self.present]
        device = self.moments.device
        self.rates = torch.tensor([[settings.lr] for settings in own], device=device)
        counts = torch.tensor([[float(settings.num_utterances)] for settings in own], device=device)
        gradients = [slices.grad.flatten(1) for slices in self._with_gradients()]
        self.gradients = torch.cat(gradients, dim=1).div_(counts)

    def clip(self, limit: float | None) -> float:
        """Clip the norms of the shared and each task's gradient; return the largest norm before clipping."""
        largest = 0.0
        if self.shared:
            largest = float(nn.utils.clip_grad_norm_(self.shared, limit or math.inf))
        if self.present:
            # row by row: the summation order of a batched norm may depend on the number of rows
            norms = torch.stack([torch.linalg.vector_norm(row) for row in self.gradients])
            largest = float(torch.cat([norms, norms.new_tensor([largest])]).max())  # max keeps nan
            self.gradients.mul_(((limit or math.inf) / (norms + 1e-6)).clamp(max=1.0)[:, None])
        return largest

    def step(self) -> None:
        """Take an optimizer step; rows of absent tasks do not change."""
        if self.inner is not None:
            self._decay_shared()
            self.inner.step()
        if self.present:
            self.steps[self.present] += 1
            self._step_tasks()

    def zero_grad(self) -> None:
        """Release the gradients."""
        for parameter in (*self.shared, *self.slices):
            parameter.grad = None

    def tensors(self) -> dict[str, Tensor]:
        """Return the optimizer state needed to resume."""
        slots = self.inner.state_dict()["state"] if self.inner is not None else {}
        inner = {f"shared.{i}.{name}": torch.as_tensor(t) for i, s in slots.items() for name, t in s.items()}
        anchors = {"own": self.own_anchors, "shared": self.shared_anchors}
        starts = {f"start.{part}.{i}": t for part, own in anchors.items() for i, t in enumerate(own)}
        return {"steps": self.steps, "moments": self.moments, **starts, **inner}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Load a state returned by `tensors`."""
        self.steps.copy_(tensors["steps"])
        self.moments.copy_(tensors["moments"])
        for part, anchors in (("own", self.own_anchors), ("shared", self.shared_anchors)):
            for index, anchor in enumerate(anchors):
                anchor.copy_(tensors[f"start.{part}.{index}"])
        slots: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith("shared."):
                _, index, slot = name.split(".")
                slots.setdefault(int(index), {})[slot] = tensor
        if self.inner is not None:
            self.inner.load_state_dict({**self.inner.state_dict(), "state": slots})

    def _decay_shared(self) -> None:
        """Decay the shared weights that take part in this step."""
        decay = self.inner.param_groups[0]["lr"] * self.weight_decay
        with torch.no_grad():
            for index, parameter in enumerate(self.shared if decay else ()):
                if parameter.grad is not None:  # None for a layer that stochastic depth skipped
                    anchor = self.shared_anchors[index] if self.shared_anchors else None
                    _decay(parameter, anchor, decay)

    def _step_tasks(self) -> None:
        with torch.no_grad():
            anchors = self._rows(self.own_anchors) if self.own_anchors else None
            weights = torch.cat([slices.detach().flatten(1) for slices in self.slices], dim=1)
            _decay(weights, anchors, self.rates * self.weight_decay)
            directions = self.gradients if self.algorithm == "sgd" else self._directions()
            weights -= directions.mul_(self.rates)
            ids = self._ids()
            parts = weights.split([parameter[0].numel() for parameter in self.owned], dim=1)
            for parameter, own in zip(self.owned, parts, strict=True):
                parameter.index_copy_(0, ids, own.view(-1, *parameter.shape[1:]))

    def _directions(self) -> Tensor:
        """Update the moments of the present tasks, and return their AdamW update directions (n, P).

        In place, as most of the time would go to memory for intermediate results. Products and sums are
        separate operations, whose result for an element depends on nothing else.
        """
        ids, is_all = self._ids(), len(self.present) == self.moments.shape[1]
        first, second = self.moments if is_all else (own.index_select(0, ids) for own in self.moments)
        part = self.gradients * (1 - _BETA1)
        first.mul_(_BETA1).add_(part)
        torch.mul(self.gradients, self.gradients, out=part)
        second.mul_(_BETA2).add_(part.mul_(1 - _BETA2))
        if not is_all:
            self.moments[0].index_copy_(0, ids, first)
            self.moments[1].index_copy_(0, ids, second)
        counts = self.steps[self.present].double()[:, None]
        corrections = [(1 - beta**counts).float().to(ids.device) for beta in (_BETA1, _BETA2)]
        torch.div(second, corrections[1], out=part).sqrt_().add_(_EPSILON)
        return torch.div(first, corrections[0], out=self.gradients).div_(part)

    def _with_gradients(self) -> list[Tensor]:
        """Return the slices of this step; what took no part in it gets a gradient of zero."""
        for slices in self.slices:
            if slices.grad is None:
                slices.grad = torch.zeros_like(slices)
        return self.slices

    def _rows(self, tables: list[Tensor]) -> Tensor:
        """Concatenate the present tasks' slices of all parameters (n, P)."""
        ids = self._ids()
        return torch.cat([table.detach().index_select(0, ids).flatten(1) for table in tables], dim=1)

    def _ids(self) -> Tensor:
        return torch.tensor(self.present, device=self.moments.device)

    def _num_per_task(self) -> int:
        return sum(parameter[0].numel() for parameter in self.owned)


def _decay(weights: Tensor, anchors: Tensor | None, decay: Tensor | float) -> None:
    """Pull weights towards their anchors in place, or towards zero without any."""
    if anchors is None:
        weights *= 1 - decay
    else:
        weights -= decay * (weights - anchors)


def _of_torch(parameters: list[nn.Parameter], algorithm: str) -> torch.optim.Optimizer:
    if algorithm == "adamw":
        return torch.optim.AdamW(parameters, weight_decay=0.0, betas=(_BETA1, _BETA2), eps=_EPSILON)
    return torch.optim.SGD(parameters, lr=0.0)
