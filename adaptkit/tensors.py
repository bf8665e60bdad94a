"""Files of named tensors with a checksum, and operations on the tensors of a whole model.

The files are safetensors with a json header, never pickles. The header begins with the CRC-32 of the whole
file, computed with zeros in place of the checksum, so that a flipped bit is detected.
"""

import hashlib
import json
import math
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from adaptkit.errors import AdaptkitError, CheckpointError, ConfigError, listed
from adaptkit.files import explain_os_error, read_regular, replacing

_HEAD = b'{"__metadata__":{"adaptkit":"{\\"crc32\\": \\"'  # follows 8 bytes of length
_NO_CHECKSUM = "00000000"
_CHECKSUM = slice(8 + len(_HEAD), 8 + len(_HEAD) + len(_NO_CHECKSUM))
_BLOCK = 1 << 22  # bytes read or written at a time
_DTYPES = {  # in the order in which safetensors sorts tensors, so that numbers are aligned
    torch.int64: "I64",
    torch.float64: "F64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def write_tensors(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Write named tensors and a json header atomically, with a checksum, without a copy of all of them."""
    begin_writing(path, tensors, header)()


def begin_writing(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> Callable[[], None]:
    """Hand named tensors to the operating system; return a function that completes the file.

    It adds the checksum, waits for the disk and gives the file its name. It may be called in another thread,
    when the tensors have changed already.
    """
    with ExitStack() as stack:
        temporary = stack.enter_context(replacing(path))
        with open(temporary, "wb") as file:
            file.writelines(_contents(tensors, header))
        handed = stack.pop_all()

    def finish() -> None:
        with handed, open(temporary, "r+b") as file:
            checksum = _checksum(iter(lambda: file.read(_BLOCK), b""))
            file.seek(_CHECKSUM.start)
            file.write(checksum)

    return finish


def _contents(tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> Iterator[bytes | memoryview]:
    """Yield the parts of a file as safetensors writes it: the header, then the tensors in parts."""
    places: dict[str, Any] = {"__metadata__": {"adaptkit": json.dumps({"crc32": _NO_CHECKSUM, **header})}}
    ranks, end = {dtype: rank for rank, dtype in enumerate(_DTYPES)}, 0
    ordered = sorted(tensors, key=lambda name: (ranks[tensors[name].dtype], name.encode()))
    for name in ordered:
        tensor, start = tensors[name], end
        end += tensor.numel() * tensor.element_size()
        kind, shape = _DTYPES[tensor.dtype], list(tensor.shape)
        places[name] = {"dtype": kind, "shape": shape, "data_offsets": [start, end]}
    described = json.dumps(places, separators=(",", ":"), ensure_ascii=False).encode()
    described += b" " * (-len(described) % 8)
    yield len(described).to_bytes(8, "little") + described
    for name in ordered:
        for part in tensors[name].detach().contiguous().reshape(-1).view(torch.uint8).split(_BLOCK):
            yield part.cpu().numpy().data


def read_tensors(
    path: Path, *, remedy: str = "copy, export or train it again"
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read named tensors and their json header from one version of a file, even if it is replaced meanwhile.

    A file that is damaged, truncated or written by another program is a CheckpointError with the remedy.
    """
    try:
        content = read_regular(path)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file; 'adaptkit train' writes it") from error
    except OSError as error:
        raise CheckpointError(explain_os_error(error, path)) from error
    except AdaptkitError as error:
        raise CheckpointError(str(error)) from error
    try:
        tensors = safetensors.torch.load(content)
    except SafetensorError as error:
        raise CheckpointError(
            f"{path}: damaged or truncated ({len(content)} bytes): {error}; {remedy}"
        ) from error
    try:
        length = int.from_bytes(content[:8], "little")
        fields = json.loads(content[8 : 8 + length])["__metadata__"]  # `load` does not return them
        header = dict(json.loads(fields["adaptkit"]))
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: a safetensors file, but not written by adaptkit; {remedy}") from error
    if not content.startswith(_HEAD, 8):
        raise CheckpointError(f"{path}: damaged, or of an earlier adaptkit: it has no checksum; {remedy}")
    if content[_CHECKSUM] != _checksum([content]):
        raise CheckpointError(f"{path}: damaged: the checksum does not match; {remedy}")
    header.pop("crc32", None)
    return tensors, header


def load_strictly(
    model: nn.Module, weights: Mapping[str, Tensor], path: Path, *, takes_over: bool = False
) -> None:
    """Load weights into a model; they must have its names, shapes and kinds of numbers, and be finite.

    With `takes_over`, the tensors become the model's own instead of being copied, so that they take their
    memory once; they may not be used otherwise.
    """
    own = model.state_dict()
    missing, extra = sorted(set(own) - set(weights)), sorted(set(weights) - set(own))
    both = {name: (own[name], weights[name]) for name in own if name in weights}
    reshaped = [name for name, (mine, theirs) in both.items() if mine.shape != theirs.shape]
    retyped = [n for n, (mine, theirs) in both.items() if _number_kind(mine) != _number_kind(theirs)]
    infinite = [name for name, (_, theirs) in both.items() if not theirs.isfinite().all()]
    problems = [
        f"{what}: {listed(names, 3)}"
        for what, names in (
            ("missing", missing),
            ("not in the model", extra),
            ("wrong shape", reshaped),
            ("another type of numbers", retyped),
            ("not finite", infinite),
        )
        if names
    ]
    if problems:
        raise CheckpointError(f"{path}: does not fit the configuration it comes with; {'; '.join(problems)}")
    if takes_over and len({tensor.data_ptr() for tensor in own.values() if tensor.numel()}) == sum(
        tensor.numel() > 0 for tensor in own.values()
    ):  # else two names share a tensor, which stays shared
        model.load_state_dict(_own_tensors(weights, own), strict=True, assign=True)
    else:
        model.load_state_dict(weights, strict=True)


def _own_tensors(weights: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors of the types in `like`, each with memory of its own; what has it is not copied."""
    owned, seen = {}, set()
    for name, tensor in weights.items():
        tensor = tensor.to(like[name].dtype)
        storage = tensor.untyped_storage()
        is_whole = tensor.is_contiguous() and storage.nbytes() == tensor.numel() * tensor.element_size()
        owned[name] = tensor if is_whole and storage.data_ptr() not in seen else tensor.clone().contiguous()
        seen.add(storage.data_ptr())
    return owned


class UninitialisedWeights(TorchFunctionMode):
    """Leave new weights as they are allocated, for a model whose weights are all loaded afterwards.

    Drawing random ones takes seconds, and memory that is otherwise never touched.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Skip the functions of torch.nn.init; call all others."""
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


def _number_kind(tensor: Tensor) -> str:
    """Return the kind of a tensor's numbers: floats of any precision, or the exact type."""
    return "float" if tensor.is_floating_point() else str(tensor.dtype)


def average_tensors(weights: list[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Average the weights of several checkpoints; integers, such as counters, come from the last one."""
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


class AllocationLimit(TorchFunctionMode):
    """Raise `refusal` before torch's factory functions have allocated more than `num_bytes` in the block.

    It counts what constructors of modules ask for, so that sizes in a file cannot take the machine's memory.
    """

    def __init__(self, num_bytes: int, refusal: AdaptkitError):
        super().__init__()
        self.left, self.refusal = num_bytes, refusal

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Subtract what a factory function will allocate, then call it."""
        options = kwargs or {}
        if func in _FACTORIES:
            size = options.get("size", args[0] if args and not isinstance(args[0], int) else args)
            self.left -= 4 * math.prod(int(n) for n in size)
            if self.left < 0:
                raise self.refusal
        return func(*args, **options)


_FACTORIES = (torch.empty, torch.zeros, torch.ones, torch.rand, torch.randn)


def total_bytes(weights: Mapping[str, Tensor]) -> int:
    """Return the size of all tensors together."""
    return sum(tensor.numel() * tensor.element_size() for tensor in weights.values())


def memory_bytes() -> int:
    """Return the memory of this machine, or of the container if that is less."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        return physical
    return min(physical, int(limit)) if limit.isdecimal() else physical


def require_device(device: torch.device | str) -> None:
    """Refuse a device that torch cannot use here."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"--device {device}: not available: {str(error).splitlines()[0]}") from error


def _checksum(parts: Iterable[bytes]) -> bytes:
    """Compute the checksum of a file's content, given in parts, of which the first holds its place."""
    checksum, is_first = 0, True
    for part in parts:
        whole = memoryview(part)
        if is_first:
            checksum = zlib.crc32(_NO_CHECKSUM.encode(), zlib.crc32(whole[: _CHECKSUM.start]))
            whole, is_first = whole[_CHECKSUM.stop :], False
        checksum = zlib.crc32(whole, checksum)
    return f"{checksum:08x}".encode()
