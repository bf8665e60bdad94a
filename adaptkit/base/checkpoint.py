"""Load and save base models: a folder with ESPnet's `config.yaml` and `model.pth`."""

import io
import json
import logging
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from adaptkit.adapters.site import Site
from adaptkit.base import padding
from adaptkit.base.build import build, complete
from adaptkit.base.sites import find_sites
from adaptkit.config import read_yaml, write_yaml
from adaptkit.errors import CheckpointError, listed
from adaptkit.files import replacing
from adaptkit.folders import RunFolder
from adaptkit.tensors import hash_tensors, load_strictly
from adaptkit.tokens import TokenList

_LOG = logging.getLogger(__name__)
_FINGERPRINTED = (
    *("frontend", "frontend_conf", "normalize", "normalize_conf", "preencoder", "preencoder_conf"),
    *("encoder", "encoder_conf", "input_size", "token_list"),
)


@dataclass(frozen=True)
class BaseModel:
    """A frozen recogniser in eval() mode, with its configuration, tokens and adapter sites."""

    path: Path
    config: Mapping[str, Any]  # ESPnet's own, completed
    model: nn.Module  # an ESPnetASRModel
    tokens: TokenList
    sites: tuple[Site, ...]
    fingerprint: str  # of weights, buffers and architecture: identifies what an adapter was trained on
    features: Mapping[str, Any] | None  # options of the features it was trained on; None if it reads speech

    @property
    def width(self) -> int:
        """D, the width of the encoder."""
        return self.model.encoder.output_size()

    @property
    def num_blocks(self) -> int:
        """L, the number of blocks of the encoder."""
        return len(self.model.encoder.encoders)

    @property
    def subsampling(self) -> int:
        """Feature frames per encoder frame."""
        return padding.subsampling(self.model.encoder)

    @property
    def frame_shift_ms(self) -> float:
        """Milliseconds between feature frames."""
        if self.features is not None:
            return float(self.features["shift_ms"])
        frontend = self.config["frontend_conf"]
        return 1000.0 * frontend.get("hop_length", 128) / self.rate_hz

    @property
    def rate_hz(self) -> int:
        """The sampling rate of the speech it was trained on, in Hz."""
        if self.features is not None:
            return int(self.features["rate_hz"])
        rate = str(self.config["frontend_conf"].get("fs", 16000))  # ESPnet also writes 16k
        return int(float(rate.removesuffix("k")) * 1000) if rate.endswith("k") else int(rate)

    def to(self, device: torch.device | str) -> "BaseModel":
        """Move the model itself, not a copy, to a device."""
        self.model.to(device)
        return self

    @property
    def num_parameters(self) -> int:
        """The parameter count, without buffers."""
        return sum(parameter.numel() for parameter in self.model.parameters())


def load(path: Path, device: torch.device | str = "cpu", *, is_finished: bool = True) -> BaseModel:
    """Load a base model; an incomplete, damaged or foreign file is a CheckpointError.

    ESPnet's own inference loads with strict=False, so a wrong file would decode without an error.
    """
    path, folder = Path(path), RunFolder(Path(path))
    if not folder.config.is_file() or not folder.model.is_file():
        raise CheckpointError(
            f"{path}: no base model: expected config.yaml and model.pth; 'adaptkit base train' trains one"
        )
    if is_finished and folder.is_unfinished:
        raise CheckpointError(
            f"{path}: the training of this base model has not finished (there is no {folder.record.name}); "
            "'adaptkit base train CONFIG --resume' finishes it, with the yaml and options it was begun with"
        )
    _LOG.info("loading the base model %s", path)
    config = complete(read_yaml(folder.config))
    if not isinstance(config.get("token_list"), list):
        raise CheckpointError(
            f"{path}/config.yaml: has no list 'token_list'; use the one that ESPnet wrote with the model"
        )
    weights = read_weights(folder.model)
    with tempfile.TemporaryDirectory() as temporary:
        model = build(_with_statistics(config, weights, path, Path(temporary)))
    load_strictly(model, weights, folder.model)
    return wrap(path, config, model.to(device))


def wrap(path: Path, config: Mapping[str, Any], model: nn.Module) -> BaseModel:
    """Freeze a model and collect what `BaseModel` holds."""
    model.eval().requires_grad_(False)
    features = (config.get("adaptkit") or {}).get("features")
    if features is None and config["frontend"] is None:
        raise CheckpointError(
            f"{path}/config.yaml: the model reads features of {config['input_size']} bins without options; "
            "add 'adaptkit: {features: {...}}' with what 'adaptkit feats' writes to feats.json"
        )
    bpe = config.get("bpemodel") or None
    if bpe is not None:
        bpe = find_beside(path, bpe) or path / Path(bpe).name
    return BaseModel(
        path=path,
        config=config,
        model=model,
        tokens=TokenList(tuple(config["token_list"]), bpe),
        sites=find_sites(model),
        fingerprint=_fingerprint(config, model),
        features=features,
    )


def save(path: Path, config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
    """Write `config.yaml` and `model.pth` as ESPnet's `ASRTask.build_model_from_file` reads them."""
    content = io.BytesIO()  # torch's own file writer raises RuntimeError on a full disk
    torch.save({name: tensor.detach().cpu().clone() for name, tensor in weights.items()}, content)
    with replacing(RunFolder(path).model) as temporary:
        temporary.write_bytes(content.getbuffer())
    write_yaml(RunFolder(path).config, config)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a state dict of tensors; anything else is refused, since unpickling could run code.

    torch itself does not compare the archive's checksums: changed bytes would be read as other weights.
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
    return weights


def _check_archive(path: Path) -> None:
    """Check the checksums of a file that torch.save wrote; its format before torch 1.6 has none."""
    if not path.is_file():  # a FIFO would block
        raise ValueError("no regular file")
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise ValueError("its entries are compressed, which torch.save never does")
        if len({entry.filename for entry in entries}) < len(entries):
            raise ValueError("it has two entries of one name")
        damaged = archive.testzip()
        if damaged is not None:
            raise ValueError(f"the checksum of {damaged} does not match, so its bytes have changed")


def _is_plain(tensor: Tensor) -> bool:
    """Return whether a tensor is dense and real, and its file holds all of its elements."""
    if tensor.layout is not torch.strided or tensor.is_meta or tensor.is_quantized or tensor.is_complex():
        return False
    return tensor.untyped_storage().nbytes() >= tensor.numel() * tensor.element_size()


def find_beside(folder: Path, name: str | Path) -> Path | None:
    """Find a file that a model's configuration names: by its name in the model's folder, then as written.

    A path in a configuration is relative to where the model was trained, which may now hold another model's.
    """
    candidates = (folder / Path(name).name, Path(name))
    return next((path for path in candidates if path.is_file()), None)


def _with_statistics(
    config: Mapping[str, Any], weights: Mapping[str, Tensor], path: Path, folder: Path
) -> Mapping[str, Any]:
    """Point `normalize_conf.stats_file` at a file that exists.

    The statistics are also buffers in the weights, so a lost file can be replaced by a placeholder.
    """
    stats = (config["normalize_conf"] or {}).get("stats_file")
    if stats is None:
        return config
    found = find_beside(path, stats)
    if found is None:
        if "normalize.mean" not in weights:
            raise CheckpointError(
                f"{path}/config.yaml: normalize_conf.stats_file {stats} does not exist; copy it to {path}"
            )
        found = folder / "stats.npz"
        mean, std = weights["normalize.mean"].double().numpy(), weights["normalize.std"].double().numpy()
        np.savez(found, count=1.0, sum=mean, sum_square=std**2 + mean**2)
        _LOG.info("%s does not exist; mean and variance are taken from the weights", stats)
    return {**config, "normalize_conf": {**config["normalize_conf"], "stats_file": str(found)}}


def _fingerprint(config: Mapping[str, Any], model: nn.Module) -> str:
    """Hash the architecture and every weight and buffer; 32 hexadecimal digits."""
    described = {name: config.get(name) for name in _FINGERPRINTED}
    normalize = {name: value for name, value in config["normalize_conf"].items() if name != "stats_file"}
    described["normalize_conf"] = normalize  # the statistics themselves are buffers
    words = json.dumps(described, sort_keys=True, default=str)
    return hash_tensors(model.state_dict(), prefix=words)
