"""Choose the model file of a folder, and read it: only plain tensors, and only from an intact file."""

import re
import zipfile
from pathlib import Path

import torch
from torch import Tensor

from adaptkit.errors import CheckpointError, listed
from adaptkit.folders import RunFolder

_TRAINING_STATE = "checkpoint.pth"  # as ESPnet names it
_POINTER = b"version https://git-lfs"


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a state dict of tensors; anything else is refused, since unpickling could run code.

    torch itself does not verify the archive's checksums, so changed bytes would be read as other weights.
    """
    try:
        _check_archive(path)
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can raise anything
        first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
        size = f"{path.stat().st_size} bytes" if path.is_file() else "not a regular file"
        raise CheckpointError(
            f"{path}: not a complete file of model weights ({size}): {first_line}; "
            "copy it again, or use ESPnet's model file (valid.*.pth) rather than checkpoint.pth"
        ) from error
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise CheckpointError(
            f"{path}: contains more than model weights; use ESPnet's model file (valid.*.pth)"
        )
    strange = [str(name) for name, tensor in weights.items() if not (type(name) is str and _is_plain(tensor))]
    if strange:
        raise CheckpointError(
            f"{path}: {listed(strange)}: not a plain tensor of numbers (sparse, quantised, complex, expanded "
            "or without data); save the model's state dict as ESPnet does"
        )
    return {name: tensor.detach() for name, tensor in weights.items()}  # a Parameter requires gradients


def list_models(folder: Path) -> list[Path]:
    """List the model files of a folder, each once: ESPnet's `valid.acc.ave.pth` is a link to another."""
    found: dict[Path, Path] = {}
    for path in sorted(folder.glob("*.pth"), key=lambda path: (path.is_symlink(), path.name)):
        if path.is_file() and path.name != _TRAINING_STATE:
            found.setdefault(path.resolve(), path)
    return list(found.values())


def choose_model(folder: Path, name: str | None = None) -> Path | None:
    """Choose the file `name`, else model.pth, the only average of checkpoints, or the only model file.

    Where several remain, a CheckpointError names them; without any, it returns None.
    """
    files = list_models(folder)
    if name is not None:
        if not (folder / name).is_file() or Path(name).name != name:
            held = listed(path.name for path in files) or "no model file"
            raise CheckpointError(f"{folder}: no file {name}; it holds {held}")
        refuse_training_state(folder / name)
        return folder / name
    averages = [path for path in files if re.fullmatch(r".*\.ave(_\d+best)?\.pth", path.name)]
    for candidates in ([path for path in files if path == RunFolder(folder).model], averages, files):
        if len(candidates) == 1:
            return candidates[0]
        if candidates:
            names = listed(path.name for path in candidates)
            raise CheckpointError(
                f"{folder}: {len(candidates)} models: {names}; give the path of one of these files instead"
            )
    refuse_training_state(folder / _TRAINING_STATE)
    return None


def refuse_training_state(path: Path) -> None:
    """Refuse ESPnet's checkpoint.pth if it is there."""
    if path.name == _TRAINING_STATE and path.is_file():
        raise CheckpointError(
            f"{path}: an ESPnet training state, not a model; give the model file beside it (valid.*.pth)"
        )


def _check_archive(path: Path) -> None:
    """Check the checksums of a file that torch.save wrote; its format before torch 1.6 has none."""
    if not path.is_file():  # a FIFO would block
        raise ValueError("not a regular file")
    if not zipfile.is_zipfile(path):
        _refuse_pointer(path)
        return
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise ValueError("its entries are compressed, which torch.save never does")
        if len({entry.filename for entry in entries}) < len(entries):
            raise ValueError("it has two entries of the same name")
        damaged = archive.testzip()
        if damaged is not None:
            raise ValueError(f"the checksum of {damaged} does not match, so its bytes have changed")


def _refuse_pointer(path: Path) -> None:
    """Refuse the pointer that a clone without Git LFS has in place of a large file."""
    with open(path, "rb") as file:
        if file.read(len(_POINTER)) == _POINTER:
            raise ValueError("a Git LFS pointer; run 'git lfs pull' where it was cloned")


def _is_plain(tensor: Tensor) -> bool:
    """Whether a tensor is dense and real, and its file holds all of its elements."""
    if tensor.layout is not torch.strided or tensor.is_meta or tensor.is_quantized or tensor.is_complex():
        return False
    return tensor.untyped_storage().nbytes() >= tensor.numel() * tensor.element_size()
