"""The shared adapter from which an experiment started, as an additional task."""

from pathlib import Path

import torch
from torch import nn

from adaptkit.adapters import api
from adaptkit.adapters.api import AdapterStack
from adaptkit.adapters.per_task import SHARED, shared_parameters, task_parameters, weights_of
from adaptkit.base.checkpoint import BaseModel
from adaptkit.folders import RunFolder
from adaptkit.training.start import read_shared_start


def with_shared(stack: AdapterStack, exp: Path, base: BaseModel) -> AdapterStack:
    """Add the task SHARED to an experiment's adapters, if it started from such an adapter and lacks one.

    It is used with the current shared weights: if training changed these, the task is the start of a new
    speaker rather than the adapter from which training started. With a hypernetwork its embedding is zero.
    """
    path = RunFolder(exp).start
    shared = read_shared_start(path, base) if SHARED not in stack.tasks and path.exists() else None
    if shared is None:
        return stack
    more = api.build(stack.configs, base.sites, [*stack.tasks, SHARED], seed=None)
    more = more.to(next(stack.parameters()).device)
    everyones, own = dict(shared_parameters(stack)), dict(task_parameters(stack))
    with torch.no_grad():
        for name, parameter in shared_parameters(more):
            parameter.copy_(everyones[name])
        for name, table in task_parameters(more):
            table[:-1] = own[name]
        for member, like in zip(more, shared, strict=True):
            _fill_last(member, like)
    return more.eval().requires_grad_(False)


def _fill_last(member: nn.Module, like: nn.Module) -> None:
    """Set the weights of an adapter's last task to those of a shared adapter."""
    weights = {} if member.space is not None else weights_of(like, like.space, 0)
    for name, table in task_parameters(member):
        table[-1] = weights.get(name, 0.0)
