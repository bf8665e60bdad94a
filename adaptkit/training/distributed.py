"""Distributed training in the processes that `torchrun` started."""

import logging
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from adaptkit import locks
from adaptkit.adapters.per_task import task_parameters
from adaptkit.base.sites import drops_layers
from adaptkit.errors import ConfigError, TrainingError

TIMEOUT = "ADAPTKIT_DISTRIBUTED_TIMEOUT_SEC"
_DEFAULT_SEC = 1800.0  # also bounds a validation, which the first process does while the others wait
Value = TypeVar("Value")
_LOG = logging.getLogger(__name__)
_MARKS = (
    "Timed out",
    "timed out",
    "timeout",
    "Connection closed by peer",
    "Connection reset",
    "gloo/transport",
)


@contextmanager
def in_processes(device: str) -> Iterator[None]:
    """Join the process group of `torchrun`, if there is one and it is not joined yet."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or distributed.is_initialized():
        yield
        return
    is_cuda = torch.device(device).type == "cuda"
    if is_cuda:
        torch.cuda.set_device(device)  # nccl sends from the current device
    seconds = _timeout_sec()
    limit = f"waits at most {seconds:g} s for the others ({TIMEOUT})"
    _LOG.info("process %s of %s %s", os.environ.get("RANK"), os.environ["WORLD_SIZE"], limit)
    with _explained(seconds):
        distributed.init_process_group("nccl" if is_cuda else "gloo", timeout=timedelta(seconds=seconds))
    try:
        with _explained(seconds):
            yield
    finally:
        distributed.destroy_process_group()


def is_first() -> bool:
    """Return whether this is the process that writes files: the first, or the only one."""
    return not distributed.is_initialized() or distributed.get_rank() == 0


def of_first(value: Value) -> Value:
    """Return the first process's value in every process, for decisions on which they must agree.

    The others may look at a folder that the first one writes to already.
    """
    shared = [value]
    if distributed.is_initialized():
        distributed.broadcast_object_list(shared)
    return shared[0]


def from_all(names: list[str]) -> list[str]:
    """Return the names found in any process, sorted."""
    return sorted(set().union(*of_each(names)))


def of_each(value: Value) -> list[Value]:
    """Return the value of each process, in order of rank, in all of them."""
    values = [value]
    if distributed.is_initialized():
        values *= distributed.get_world_size()
        distributed.all_gather_object(values, value)
    return values


def in_parallel(model: nn.Module, trained: nn.Module, *, has_statistics: bool) -> nn.Module:
    """Return a model that averages gradients over processes; what is trained takes the first one's weights.

    The gradients of per-task weights are left to the optimizer, which averages those of a step's tasks alone.
    """
    if not distributed.is_initialized():
        return model
    for tensor in trained.state_dict().values():
        distributed.broadcast(tensor, 0)
    owned = {name for name, _ in task_parameters(model)}
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, owned)
    if not any(p.requires_grad for name, p in model.named_parameters() if name not in owned):
        return model
    return DistributedDataParallel(
        model, broadcast_buffers=has_statistics, find_unused_parameters=drops_layers(trained)
    )


@contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Hold the lock on the folder of a run in the process that writes to it."""
    with locks.hold(folder, parts=("checkpoints",)) if is_first() else nullcontext():
        yield


def _timeout_sec() -> float:
    """Return how long a process waits for the others."""
    given = os.environ.get(TIMEOUT, str(_DEFAULT_SEC))
    try:
        seconds = float(given)
    except ValueError:
        seconds = math.nan
    if not 1 <= seconds <= 604_800:  # a week
        raise ConfigError(f"{TIMEOUT}={given}: expected seconds, from 1 to 604800")
    return seconds


@contextmanager
def _explained(seconds: float) -> Iterator[None]:
    """Turn the failure of another process into an error with a remedy."""
    try:
        yield
    except (distributed.DistBackendError, distributed.DistNetworkError, RuntimeError) as error:
        text = str(error)
        if not isinstance(error, distributed.DistError) and not any(mark in text for mark in _MARKS):
            raise
        raise TrainingError(
            f"process {os.environ.get('RANK')}: another process of this training ended, or did not answer "
            f"within {seconds:g} s ({text.splitlines()[0][:200]}); look at its log, then use --resume; if "
            f"validation takes longer than that, set {TIMEOUT}"
        ) from error
