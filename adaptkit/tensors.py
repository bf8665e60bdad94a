"""Files of named tensors, sealed by a checksum, and what is done with the tensors of a whole model.

The files are safetensors with a json header, never a pickle. The header begins with the CRC-32 of the whole
file, the seal itself being zeros in it, so that a flipped bit is noticed.
"""

import hashlib
import json
import zlib
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from adaptkit.errors import CheckpointError, listed
from adaptkit.files import describe, replacing

_BEFORE_SEAL = b'{"__metadata__":{"adaptkit":"{\\"crc32\\": \\"'  # after 8 bytes of length
_UNSEALED = "00000000"
_SEAL = slice(8 + len(_BEFORE_SEAL), 8 + len(_BEFORE_SEAL) + len(_UNSEALED))


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


def load_strictly(model: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    """Load weights whose names and shapes are all the model's, and no others."""
    own = model.state_dict()
    missing, extra = sorted(set(own) - set(weights)), sorted(set(weights) - set(own))
    reshaped = [name for name in own if name in weights and own[name].shape != weights[name].shape]
    problems = [
        f"{what}: {listed(names, 3)}"
        for what, names in (("missing", missing), ("not in the model", extra), ("of another shape", reshaped))
        if names
    ]
    if problems:
        raise CheckpointError(f"{path}: does not fit the configuration it comes with; {'; '.join(problems)}")
    model.load_state_dict(weights, strict=True)


def average_tensors(weights: list[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Average the weights of several checkpoints; whole numbers, such as counters, are the last one's."""
    return {
        name: torch.stack([entry[name] for entry in weights]).mean(dim=0)
        if tensor.is_floating_point()
        else tensor
        for name, tensor in weights[-1].items()
    }


def hash_tensors(tensors: Mapping[str, Tensor], *, num_bytes: int = 16, prefix: str = "") -> str:
    """Hash names, shapes, dtypes and values of tensors, after `prefix`, to hexadecimal digits (BLAKE2b)."""
    digest = hashlib.blake2b(prefix.encode(), digest_size=num_bytes)
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _checksum(content: bytes) -> bytes:
    """Give the seal that belongs to a file, without a copy of it."""
    whole, checksum = memoryview(content), 0
    for part in (whole[: _SEAL.start], _UNSEALED.encode(), whole[_SEAL.stop :]):
        checksum = zlib.crc32(part, checksum)
    return f"{checksum:08x}".encode()
