"""Distributed training in the processes that `torchrun` started."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
from torch import distributed

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
