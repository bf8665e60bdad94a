"""Load base models, from a folder with ESPnet's `config.yaml` and `model.pth` or an archive; save them."""

import io
import logging
import shlex
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from adaptkit.adapters.site import Site
from adaptkit.base import archive, names, owsm, padding, preprocessor, schema
from adaptkit.base.archive import ModelFiles
from adaptkit.base.build import build, complete
from adaptkit.base.fingerprint import fingerprint_of
from adaptkit.base.model_file import read_weights
from adaptkit.base.old_cache import mend_tokens
from adaptkit.base.preprocessor import Preprocessor
from adaptkit.base.sites import find_sites
from adaptkit.base.weights import leaving_no_trace
from adaptkit.config import read_yaml, write_yaml
from adaptkit.errors import CheckpointError
from adaptkit.experiment import Prompt
from adaptkit.files import replacing, require_regular
from adaptkit.folders import RunFolder
from adaptkit.records import RunRecord
from adaptkit.tensors import UninitialisedWeights, load_strictly, require_device, total_bytes
from adaptkit.tokens import TokenList, read_bpe

_LOG = logging.getLogger(__name__)
_SLACK = 1 << 30  # bytes of a model beside its weights, such as tables of positions


@dataclass(frozen=True)
class BaseModel:
    """A frozen recogniser in eval() mode, with its configuration, tokens and adapter sites."""

    path: Path  # as the user named it: a folder, a `.pth` or a zip
    files: ModelFiles  # those of a zip are gone after loading; `archive.opened(path)` reads them again
    config: Mapping[str, Any]  # ESPnet's own, completed
    model: nn.Module  # an ESPnetASRModel
    tokens: TokenList
    sites: tuple[Site, ...]
    fingerprint: str  # hash of all that affects the output; adapters fit no other
    features: Mapping[str, Any] | None  # options of the features it was trained on; None if it reads speech
    preprocessor: Preprocessor  # of speech and texts

    @property
    def width(self) -> int:
        """The width D of the encoder."""
        return self.model.encoder.output_size()

    @property
    def num_blocks(self) -> int:
        """The number of blocks of the encoder."""
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
        return 1000.0 * padding.frame_shift(self.model.frontend) / self.rate_hz

    @property
    def prompting(self) -> owsm.Prompting | None:
        """The prompt of an OWSM model; None for others."""
        return self.model.prompting

    @property
    def padded_frames(self) -> int | None:
        """The feature frames to which speech is padded; None if the model reads speech of any length."""
        return self.prompting and padding.feature_frames(self.model.frontend, self.prompting.most_samples)

    @property
    def rate_hz(self) -> int:
        """The sampling rate of the speech it was trained on, in Hz."""
        if self.features is not None:
            return int(self.features["rate_hz"])
        rate = str(self.config["frontend_conf"].get("fs", 16000))  # ESPnet also writes 16k
        return int(float(rate.removesuffix("k")) * 1000) if rate.endswith("k") else int(rate)

    def to(self, device: torch.device | str) -> "BaseModel":
        """Move the model (in place, not a copy) to a device."""
        self.model.to(device)
        return self

    @property
    def num_parameters(self) -> int:
        """The parameter count, without buffers."""
        return sum(parameter.numel() for parameter in self.model.parameters())


def load(
    path: str | Path,
    device: torch.device | str = "cpu",
    *,
    is_finished: bool = True,
    prompt: Prompt | None = None,
) -> BaseModel:
    """Load a base model from its folder, an ESPnet archive, a zip, or a `.pth` beside its config.yaml.

    `prompt` replaces that of an OWSM model's configuration. An incomplete, damaged or foreign file is a
    CheckpointError. ESPnet's own inference loads with strict=False, so a wrong file would decode without an
    error.
    """
    path = Path(path)
    require_device(device)
    with archive.opened(path, with_lm=False) as files:
        if is_finished:
            refuse_unfinished(files)
        _LOG.info("loading the base model %s", path)
        base = load_files(path, files, device, prompt)
    if archive.is_zip(path):
        base = replace(base, files=files.moved(files.root, path))
    _refuse_changed(base)
    return base


def refuse_unfinished(files: ModelFiles) -> None:
    """Refuse a base model whose training has not finished, however it is named: its folder or model.pth."""
    folder = RunFolder(files.model.parent)
    if folder.model.is_file() and folder.is_unfinished:
        raise CheckpointError(
            f"{folder.path}: the training of this base model has not finished (there is no "
            f"{folder.record.name}); 'adaptkit base train CONFIG --resume' finishes it, with the same yaml "
            "and options"
        )


def load_files(
    path: Path, files: ModelFiles, device: torch.device | str = "cpu", prompt: Prompt | None = None
) -> BaseModel:
    """Load a base model from its files; `path` names it in messages."""
    where = str(files.config)
    config = owsm.with_prompt(complete(read_yaml(files.config), where), prompt, where)
    if not isinstance(config.get("token_list"), list):
        raise CheckpointError(
            f"{where}: has no list 'token_list'; use the one that ESPnet wrote with the model"
        )
    config = mend_tokens(config, files)
    weights = read_weights(files.model)
    with tempfile.TemporaryDirectory() as temporary, UninitialisedWeights():
        described = with_statistics(config, weights, files, Path(temporary))
        model = build(described, where, most_bytes=_SLACK + 4 * total_bytes(weights))
    weights = names.canonical(model, weights, where=files.model)
    load_strictly(model, weights, files.model, takes_over=True)
    base = wrap(path, config, model.to(device), files)
    _try(base)
    return base


def wrap(
    path: Path, config: Mapping[str, Any], model: nn.Module, files: ModelFiles | None = None
) -> BaseModel:
    """Freeze a model and collect the fields of `BaseModel`; `files` defaults to those of `path`."""
    files = archive.own_files(path) if files is None else files
    model.eval().requires_grad_(False)
    features = schema.read_features(config, str(files.config))
    if features is not None and features["num_bins"] != config["input_size"]:
        reads = f"features of {config['input_size']} bins" if config["input_size"] else "speech"
        raise CheckpointError(
            f"{files.config}: the model reads {reads}, but adaptkit.features.num_bins is "
            f"{features['num_bins']}; set 'adaptkit: features:' to the options it was trained on"
        )
    if features is None and config["frontend"] is None:
        raise CheckpointError(
            f"{files.config}: the model reads features of {config['input_size']} bins without options; "
            "add 'adaptkit: {features: {...}}' with the options in the feats.json of 'adaptkit feats'"
        )
    prepared = preprocessor.read(config, files)
    if features is not None and prepared.peak is not None:
        raise CheckpointError(
            f"{files.config}: speech_volume_normalize scales speech, but the model reads features; remove it"
        )
    bpe = _find_bpe(config, files)
    return BaseModel(
        path=path,
        files=files,
        config=config,
        model=model,
        tokens=TokenList(tuple(config["token_list"]), bpe, prepared.spelling),
        sites=find_sites(model),
        fingerprint=fingerprint_of(config, model, features, bpe, prepared.describe()),
        features=features,
        preprocessor=prepared,
    )


def save(path: Path, config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
    """Write `config.yaml` and `model.pth` as ESPnet's `ASRTask.build_model_from_file` reads them."""
    write_yaml(RunFolder(path).config, config)
    content = io.BytesIO()  # torch's own file writer raises RuntimeError on a full disk
    torch.save({name: tensor.detach().cpu().clone() for name, tensor in weights.items()}, content)
    with replacing(RunFolder(path).model) as temporary:
        temporary.write_bytes(content.getbuffer())


def with_statistics(
    config: Mapping[str, Any], weights: Mapping[str, Tensor], files: ModelFiles, folder: Path
) -> Mapping[str, Any]:
    """Point `normalize_conf.stats_file` at a placeholder with the statistics in the weights.

    The file that it names is not opened: the statistics are buffers, which the weights replace.
    """
    stats = config["normalize_conf"].get("stats_file")
    if stats is None:
        return config
    if not {"normalize.mean", "normalize.std"} <= set(weights):
        raise CheckpointError(
            f"{files.model}: has no normalize.mean and normalize.std, the statistics of "
            f"normalize_conf.stats_file {stats}; use the model file that ESPnet wrote with this config.yaml"
        )
    found = folder / "stats.npz"
    mean, std = weights["normalize.mean"].double().numpy(), weights["normalize.std"].double().numpy()
    np.savez(found, count=1.0, sum=mean, sum_square=std**2 + mean**2)
    return {**config, "normalize_conf": {**config["normalize_conf"], "stats_file": str(found)}}


@torch.no_grad()
def _try(base: BaseModel) -> None:
    """Encode a second of silence, since ESPnet accepts options with which a model cannot run.

    For contextual-block encoders, the silence is long enough for several blocks.
    """
    blocks = 2 * getattr(base.model.encoder, "block_size", 0) * base.subsampling  # frames
    frames = max(100, blocks)
    if base.features is None:
        frames = max(base.rate_hz, blocks * padding.frame_shift(base.model.frontend))
    shape = (1, frames, base.features["num_bins"]) if base.features is not None else (1, frames)
    device = next(base.model.parameters()).device
    try:
        with leaving_no_trace(base.model):
            base.model.encode(torch.zeros(shape, device=device), torch.tensor([frames], device=device))
    except Exception as error:
        raise CheckpointError(
            f"{base.files.config}: the model that it describes does not run: {type(error).__name__}: "
            f"{error}; use the config.yaml that ESPnet wrote with the model"
        ) from error


def _find_bpe(config: Mapping[str, Any], files: ModelFiles) -> bytes | None:
    """Read the sentencepiece model of a model's tokens; None if they are not of BPE."""
    name = config.get("bpemodel")
    if not name:
        return None
    found = files.find(name)
    if found is None:
        raise CheckpointError(
            f"{files.config}: bpemodel {name} does not exist; copy it to {files.root / Path(name).name}"
        )
    return read_bpe(found)


def _refuse_changed(base: BaseModel) -> None:
    """Refuse a model that has changed since its run.json was written; ESPnet's models have none."""
    folder = base.files.model.parent
    record = RunFolder(folder).record
    if not record.exists():
        return
    require_regular(record)
    expected = RunRecord.read(record).base_fingerprint
    if expected.partition("-")[0] != base.fingerprint.partition("-")[0]:  # whatever the prompt
        raise CheckpointError(
            f"{folder}: the model is {base.fingerprint}, but {record} was written for {expected}: "
            "model.pth, config.yaml or the BPE model has changed since, or it was trained by an earlier "
            f"adaptkit; copy the folder again, or, if the change is intended, 'rm {shlex.quote(str(record))}'"
        )
