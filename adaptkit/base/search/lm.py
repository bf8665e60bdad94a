"""ESPnet's language models for shallow fusion, built without `espnet2.tasks` and loaded strictly."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from adaptkit.base import archive
from adaptkit.base.build import build_language_model
from adaptkit.base.checkpoint import BaseModel
from adaptkit.base.classes import LANGUAGE_MODELS
from adaptkit.base.model_file import choose_model, read_weights, refuse_training_state
from adaptkit.config import read_yaml
from adaptkit.errors import CheckpointError, listed, nearest
from adaptkit.folders import RunFolder
from adaptkit.tensors import load_strictly, total_bytes
from adaptkit.tokens import TokenList

_SLACK = 1 << 28  # bytes that a model may take beside its weights, such as tables of positions
_NO_LM = (
    "holds no language model, or several; name the folder of one, with the config.yaml (lm: ...) and the "
    ".pth that ESPnet wrote"
)
PREFIX = "lm."  # prefix of parameters in ESPnet's file, whose model contains the language model


@dataclass(frozen=True, eq=False)
class LanguageModel:
    """A language model, and the file it was read from."""

    path: Path
    config: Mapping[str, Any]  # ESPnet's own
    digest: str  # sha256 of the file
    module: nn.Module  # ESPnet's scorer


def load(path: Path, base: BaseModel) -> LanguageModel:
    """Load the language model of a folder, of a .pth beside its config.yaml, or of an archive.

    A model of other tokens than the recogniser's is a CheckpointError, as is a damaged or foreign file.
    """
    with _opened(path) as (config, weights):
        return _load(config, weights, base)


def load_own(base: BaseModel) -> LanguageModel:
    """Load the language model that came with a base model, which has one (`files.lm_model`)."""
    with archive.opened(base.path) as files:
        return _load(files.lm_config, files.lm_model, base)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Path, Path]]:
    """Yield the config.yaml and the model file of a language model; those of a zip exist within the block."""
    if path.suffix == ".pth":
        refuse_training_state(path)
        yield RunFolder(path.parent).config, path
        return
    config = RunFolder(path).config
    if config.is_file() and {"lm", "lm_conf"} & set(read_yaml(config)):
        model = choose_model(path)
        if model is None:
            raise CheckpointError(f"{path}: no .pth of the language model beside config.yaml; copy it there")
        yield config, model
        return
    if not path.exists():
        raise CheckpointError(f"{path}: not a language model: no such file or folder; check --lm")
    if not archive.is_base(path):
        raise CheckpointError(f"{path}: {_NO_LM}")
    with archive.opened(path) as files:
        if files.lm_config is None:
            raise CheckpointError(f"{path}: {_NO_LM}")
        yield files.lm_config, files.lm_model


def _load(config_path: Path, weights_path: Path, base: BaseModel) -> LanguageModel:
    for file in (config_path, weights_path):
        if not file.is_file():
            raise CheckpointError(f"{file}: no such file; a language model is a .pth beside its config.yaml")
    config = read_yaml(config_path)
    _check_tokens(config, base.tokens, config_path)
    weights = read_weights(weights_path)
    foreign = [name for name in weights if not name.startswith(PREFIX)]
    if foreign:
        raise CheckpointError(
            f"{weights_path}: {listed(foreign, 3)}: not from a language model, whose parameters begin with "
            f"'{PREFIX}'; use the .pth that ESPnet wrote beside {config_path}"
        )
    module = build_language_model(
        _check_kind(config, config_path),
        config.get("lm_conf") or {},
        str(config_path),
        num_tokens=len(base.tokens.tokens),
        most_bytes=_SLACK + 4 * total_bytes(weights),
    )
    own = {name.removeprefix(PREFIX): weight for name, weight in weights.items()}
    load_strictly(module, own, weights_path)
    module.to(next(base.model.parameters()).device).eval().requires_grad_(False)
    return LanguageModel(weights_path, config, _digest(weights_path), module)


def _check_kind(config: Mapping[str, Any], where: Path) -> str:
    kind, model = config.get("lm") or "seq_rnn", config.get("model") or "lm"  # ESPnet's defaults
    if kind not in LANGUAGE_MODELS:
        known = nearest(str(kind), LANGUAGE_MODELS) or f"; known: {', '.join(LANGUAGE_MODELS)}"
        raise CheckpointError(f"{where}: lm: {kind}: not a language model that adaptkit supports{known}")
    if model != "lm":
        raise CheckpointError(
            f"{where}: model: {model}: a language model of several tasks; use one with model: lm"
        )
    return kind


def _check_tokens(config: Mapping[str, Any], tokens: TokenList, where: Path) -> None:
    """Refuse a token list that differs from the recogniser's: scores would belong to other tokens."""
    own = config.get("token_list")
    if not isinstance(own, list):
        raise CheckpointError(
            f"{where}: has no list 'token_list'; use the config.yaml that ESPnet wrote with the model"
        )
    if tuple(own) == tokens.tokens:
        return
    pairs = enumerate(zip(own, tokens.tokens, strict=False))
    first = next((i for i, (mine, theirs) in pairs if mine != theirs), min(len(own), len(tokens.tokens)))
    raise CheckpointError(
        f"{where}: the language model has {len(own)} tokens and the recogniser {len(tokens.tokens)}, which "
        f"differ from token {first}; use a language model that was trained with the recogniser's token list"
    )


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
