"""Load and save base models: a folder with ESPnet's `config.yaml` and `model.pth`."""

import io
import json
import logging
import pickle
import tempfile
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
from adaptkit.errors import CheckpointError
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
    """A recogniser on a device, in eval() and frozen, with what others need to know of it."""

    path: Path
    config: Mapping[str, Any]  # ESPnet's own, completed
    model: nn.Module  # an ESPnetASRModel
    tokens: TokenList
    sites: tuple[Site, ...]
    fingerprint: str  # of weights, buffers and architecture: what an adapter was trained on
    features: Mapping[str, Any] | None  # options of those it was trained on; None where it reads speech

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
        """Samples per second of the speech it was trained on."""
        if self.features is not None:
            return int(self.features["rate_hz"])
        rate = str(self.config["frontend_conf"].get("fs", 16000))  # ESPnet also writes 16k
        return int(float(rate.removesuffix("k")) * 1000) if rate.endswith("k") else int(rate)

    def to(self, device: torch.device | str) -> "BaseModel":
        """Move the model itself, not a copy of it."""
        self.model.to(device)
        return self

    @property
    def num_parameters(self) -> int:
        """Count the weights, without buffers."""
        return sum(parameter.numel() for parameter in self.model.parameters())


def load(path: Path, device: torch.device | str = "cpu") -> BaseModel:
    """Load a base model; a partial, damaged or foreign file is a CheckpointError, never half a model.

    ESPnet's own inference loads with strict=False, so that a wrong file decodes without an error.
    """
    path, folder = Path(path), RunFolder(Path(path))
    if not folder.config.exists() or not folder.model.exists():
        raise CheckpointError(
            f"{path}: no base model: expected config.yaml and model.pth; 'adaptkit base train' trains one"
        )
    _LOG.info("loading the base model %s", path)
    config = complete(read_yaml(folder.config))
    if not isinstance(config.get("token_list"), list):
        raise CheckpointError(
            f"{path}/config.yaml: has no list 'token_list'; give the one that ESPnet wrote beside the model"
        )
    weights = read_weights(folder.model)
    with tempfile.TemporaryDirectory() as temporary:
        model = build(_with_statistics(config, weights, path, Path(temporary)))
    load_strictly(model, weights, folder.model)
    return wrap(path, config, model.to(device))


def wrap(path: Path, config: Mapping[str, Any], model: nn.Module) -> BaseModel:
    """Freeze a built model and describe it."""
    model.eval().requires_grad_(False)
    features = (config.get("adaptkit") or {}).get("features")
    if features is None and config["frontend"] is None:
        raise CheckpointError(
            f"{path}/config.yaml: the model reads features of {config['input_size']} bins, not saying how "
            "they are made; add 'adaptkit: {features: {...}}' with what 'adaptkit feats' writes to feats.json"
        )
    bpe = Path(config["bpemodel"]) if config.get("bpemodel") else None
    if bpe is not None and not bpe.exists():
        bpe = path / bpe.name
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
    content = io.BytesIO()  # torch's own file writer answers a full disk with a RuntimeError
    torch.save({name: tensor.detach().cpu().clone() for name, tensor in weights.items()}, content)
    with replacing(RunFolder(path).model) as temporary:
        temporary.write_bytes(content.getbuffer())
    write_yaml(RunFolder(path).config, config)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a state dict of tensors; anything else is refused, since unpickling it would run code."""
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"{path}: not a whole file of model weights ({path.stat().st_size} bytes): {first_line}; "
            "copy it again, or give ESPnet's model file (valid.*.pth) rather than checkpoint.pth"
        ) from error
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise CheckpointError(
            f"{path}: does not hold model weights alone; give ESPnet's model file (valid.*.pth)"
        )
    return weights


def _with_statistics(
    config: Mapping[str, Any], weights: Mapping[str, Tensor], path: Path, folder: Path
) -> Mapping[str, Any]:
    """Point `normalize_conf.stats_file` at a file that exists.

    The statistics are buffers in the weights too, so a lost file is only a place holder for them.
    """
    stats = (config["normalize_conf"] or {}).get("stats_file")
    if stats is None or Path(stats).exists():
        return config
    found = path / Path(stats).name
    if not found.exists():
        if "normalize.mean" not in weights:
            raise CheckpointError(f"{path}/config.yaml: normalize_conf.stats_file {stats} does not exist")
        found = folder / "stats.npz"
        mean, std = weights["normalize.mean"].double().numpy(), weights["normalize.std"].double().numpy()
        np.savez(found, count=1.0, sum=mean, sum_square=std**2 + mean**2)
        _LOG.info("%s is gone; taking mean and variance from the weights", stats)
    return {**config, "normalize_conf": {**config["normalize_conf"], "stats_file": str(found)}}


def _fingerprint(config: Mapping[str, Any], model: nn.Module) -> str:
    """Hash the architecture and every weight and buffer; 32 hexadecimal digits."""
    described = {name: config.get(name) for name in _FINGERPRINTED}
    normalize = {name: value for name, value in config["normalize_conf"].items() if name != "stats_file"}
    described["normalize_conf"] = normalize  # the statistics themselves are buffers
    words = json.dumps(described, sort_keys=True, default=str)
    return hash_tensors(model.state_dict(), prefix=words)
