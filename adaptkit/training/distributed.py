"""Distributed training in the processes that `torchrun` started."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path

import torch
from torch import distributed

from adaptkit import locks

_VALIDATION_MOST = timedelta(hours=6)  # in the first process, while the others wait


@contextmanager
def in_processes(device: str) -> Iterator[None]:
    """Join the process group of `torchrun`, if there is one and it is not joined yet."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or distributed.is_initialized():
        yield
        return
    is_cuda = torch.device(device).type == "cuda"
    if is_cuda:
        torch.cuda.set_device(device)  # nccl sends from the current device
    distributed.init_process_group("nccl" if is_cuda else "gloo", timeout=_VALIDATION_MOST)
    try:
        yield
    finally:
        distributed.destroy_process_group()


def is_first() -> bool:
    """Return whether this is the process that writes files: the first, or the only one."""
    return not distributed.is_initialized() or distributed.get_rank() == 0


@contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Hold the lock on the folder of a run in the process that writes to it."""
    with locks.hold(folder, parts=("checkpoints",)) if is_first() else nullcontext():
        yield
