"""Adapter files and training states: safetensors with a json header, never a pickle.

Files are sealed: the header begins with the CRC-32 of the whole file, the seal itself being zeros in it, so
that a flipped bit is told.
"""

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from adaptkit import config as configuration
from adaptkit.adapters import api
from adaptkit.adapters.api import AdapterConfig, AdapterStack
from adaptkit.base.checkpoint import BaseModel, load_strictly
from adaptkit.errors import CheckpointError
from adaptkit.files import describe, replacing

_FORMAT = 1
_BEFORE_SEAL = b'{"__metadata__":{"adaptkit":"{\\"crc32\\": \\"'  # after 8 bytes of length
_UNSEALED = "00000000"
_SEAL = slice(8 + len(_BEFORE_SEAL), 8 + len(_BEFORE_SEAL) + len(_UNSEALED))


@dataclass(frozen=True)
class AdapterFile:
    """The adapters of an experiment as they lie on disk."""

    adapters: tuple[AdapterConfig, ...]
    tasks: tuple[str, ...]  # position = task id
    base_fingerprint: str
    step: (
        int  # optimiser steps of the run behind these weights; tasks judged one by one may be of earlier ones
    )
    weights: Mapping[str, Tensor]

    @property
    def kind(self) -> str:
        """The kinds joined as they act."""
        return "+".join(entry.kind for entry in self.adapters)


def save(
    path: Path, stack: AdapterStack, base_fingerprint: str, step: int, weights: Mapping[str, Tensor]
) -> None:
    """Write an adapter file: weights for `stack`, its own or an average, and what is needed to use them."""
    header = {
        "format": _FORMAT,
        "kind": stack.kind,
        "adapters": [configuration.dump(entry) for entry in stack.configs],
        "tasks": list(stack.tasks),
        "base_fingerprint": base_fingerprint,
        "step": step,
        "versions": {name: metadata.version(name) for name in ("adaptkit", "torch", "espnet")},
    }
    write_tensors(path, weights, header)


def load(path: Path) -> AdapterFile:
    """Read an adapter file; a truncated or foreign one is a CheckpointError with the reason."""
    weights, header = read_tensors(path)
    if header.get("format") != _FORMAT:
        raise CheckpointError(f"{path}: an adapter file of format {header.get('format')}, not {_FORMAT}")
    try:
        return AdapterFile(
            adapters=tuple(api.read_config(entry) for entry in header["adapters"]),
            tasks=tuple(header["tasks"]),
            base_fingerprint=header["base_fingerprint"],
            step=header["step"],
            weights=weights,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: the header of the adapter file is not whole: {error}") from error


def restore(file: AdapterFile, base: BaseModel, path: Path) -> AdapterStack:
    """Build the adapters of a file for the base model they were trained on; any other base is refused."""
    if file.base_fingerprint != base.fingerprint:
        raise CheckpointError(
            f"{path}: trained on the base model {file.base_fingerprint}, {base.path} is {base.fingerprint}; "
            "give the folder of the right one with --base"
        )
    stack = api.build(file.adapters, base.sites, file.tasks, seed=None)
    load_strictly(stack, file.weights, path)
    device = next(base.model.parameters()).device
    return stack.to(device).eval().requires_grad_(False)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Write named tensors and a json header atomically, under a seal."""
    own = {
        name: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    content = safetensors.torch.save(own, {"adaptkit": json.dumps({"crc32": _UNSEALED, **header})})
    if not content.startswith(_BEFORE_SEAL, 8):
        raise CheckpointError(
            f"{path}: not written: safetensors {metadata.version('safetensors')} puts a header elsewhere; "
            "install the version in requirements.lock"
        )
    whole = memoryview(content)
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.writelines((whole[: _SEAL.start], _checksum(content), whole[_SEAL.stop :]))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read named tensors and their json header, both of one file even where it is replaced meanwhile.

    A file whose seal does not match is a CheckpointError, as one is that is truncated or of another program.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file; 'adaptkit train' writes it") from error
    except OSError as error:
        raise CheckpointError(describe(error, path)) from error
    try:
        tensors = safetensors.torch.load(content)
    except SafetensorError as error:
        raise CheckpointError(
            f"{path}: damaged or truncated ({len(content)} bytes): {error}; copy it again"
        ) from error
    try:
        length = int.from_bytes(content[:8], "little")
        fields = json.loads(content[8 : 8 + length])["__metadata__"]  # which `load` does not give
        header = dict(json.loads(fields["adaptkit"]))
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: a safetensors file, but not written by adaptkit") from error
    if not content.startswith(_BEFORE_SEAL, 8):
        raise CheckpointError(
            f"{path}: of an earlier adaptkit, or damaged: it has no seal; train, export or copy it again"
        )
    if content[_SEAL] != _checksum(content):
        raise CheckpointError(
            f"{path}: damaged: header and weights are not those that were written; "
            "copy, export or train it again"
        )
    header.pop("crc32", None)
    return tensors, header


def _checksum(content: bytes) -> bytes:
    """Give the seal that belongs to a file, without a copy of it."""
    whole, checksum = memoryview(content), 0
    for part in (whole[: _SEAL.start], _UNSEALED.encode(), whole[_SEAL.stop :]):
        checksum = zlib.crc32(part, checksum)
    return f"{checksum:08x}".encode()


def average(weights: list[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Average the weights of several checkpoints; whole numbers, such as counters, are the last one's."""
    return {
        name: torch.stack([entry[name] for entry in weights]).mean(dim=0)
        if tensor.is_floating_point()
        else tensor
        for name, tensor in weights[-1].items()
    }
