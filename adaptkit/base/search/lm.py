"""ESPnet's language models for shallow fusion, built without `espnet2.tasks` and loaded strictly."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from adaptkit.base.build import build_language_model
from adaptkit.base.classes import LANGUAGE_MODELS
from adaptkit.base.model_file import read_weights
from adaptkit.config import read_yaml
from adaptkit.errors import CheckpointError, listed, nearest
from adaptkit.tensors import load_strictly, total_bytes
from adaptkit.tokens import TokenList

_SLACK = 1 << 28  # bytes of a model beside its weights, such as tables of positions
_PREFIX = "lm."  # of the parameters in ESPnet's file, whose model holds the language model


@dataclass(frozen=True, eq=False)
class LanguageModel:
    """A language model, and the file it was read from."""

    path: Path
    digest: str  # sha256 of the file
    module: nn.Module  # ESPnet's scorer


def load(path: Path, tokens: TokenList, device: torch.device | str = "cpu") -> LanguageModel:
    """Load the language model of a folder, or of a .pth beside its config.yaml.

    The folder holds `config.yaml` and one model file, or an archive's `exp/lm_*` or `lm`. A model of other
    tokens than the recogniser's is a CheckpointError, as is a damaged or foreign file.
    """
    config_path, weights_path = find(path)
    config = read_yaml(config_path)
    _check_tokens(config, tokens, config_path)
    kind = config.get("lm") or "seq_rnn"
    if kind not in LANGUAGE_MODELS:
        known = nearest(str(kind), LANGUAGE_MODELS) or f"; known: {', '.join(LANGUAGE_MODELS)}"
        raise CheckpointError(f"{config_path}: lm: {kind!r} is no language model of adaptkit's{known}")
    weights = read_weights(weights_path)
    own = {name.removeprefix(_PREFIX): weight for name, weight in weights.items() if name.startswith(_PREFIX)}
    if len(own) < len(weights):
        foreign = [name for name in weights if not name.startswith(_PREFIX)]
        raise CheckpointError(
            f"{weights_path}: {listed(foreign, 3)}: not of a language model, whose parameters begin with "
            f"'{_PREFIX}'; use the .pth that ESPnet wrote beside {config_path.name}"
        )
    module = build_language_model(
        kind,
        config.get("lm_conf") or {},
        str(config_path),
        num_tokens=len(tokens.tokens),
        most_bytes=_SLACK + 4 * total_bytes(own),
    )
    load_strictly(module, own, weights_path)
    module.to(device).eval().requires_grad_(False)
    return LanguageModel(weights_path, hashlib.sha256(weights_path.read_bytes()).hexdigest(), module)


def find(path: Path) -> tuple[Path, Path]:
    """Find the config.yaml and the model file of a language model; not one of each is a CheckpointError."""
    if path.suffix == ".pth":
        config, models = path.parent / "config.yaml", [path]
    else:
        folders = [path, *sorted(path.glob("exp/lm_*")), path / "lm"]
        holding = [folder for folder in folders if _is_lm(folder / "config.yaml")]
        if len(holding) != 1:
            what = f"{len(holding)} language models ({listed(map(str, holding))})" if holding else "none"
            raise CheckpointError(
                f"{path}: expected the folder of one language model, with ESPnet's config.yaml (lm: ...) and "
                f"a .pth, found {what}; name its folder or its .pth"
            )
        config = holding[0] / "config.yaml"
        models = sorted(p for p in holding[0].glob("*.pth") if p.name != "checkpoint.pth")
    if not config.is_file() or not all(model.is_file() for model in models):
        missing = config if not config.is_file() else path
        raise CheckpointError(
            f"{missing}: no such file; a language model is a .pth with its config.yaml beside"
        )
    if len(models) != 1:
        raise CheckpointError(
            f"{config.parent}: {listed(m.name for m in models) or 'no .pth'}: expected one model file of the "
            "language model; name it, as in --lm DIR/valid.loss.ave.pth"
        )
    return config, models[0]


def _is_lm(config: Path) -> bool:
    return config.is_file() and ("lm_conf" in (content := read_yaml(config)) or "lm" in content)


def _check_tokens(config: Mapping[str, Any], tokens: TokenList, where: Path) -> None:
    """Refuse another token list than the recogniser's: its scores would be of other tokens."""
    own = config.get("token_list")
    if not isinstance(own, list):
        raise CheckpointError(
            f"{where}: has no list 'token_list'; use the one that ESPnet wrote with the model"
        )
    if tuple(own) == tokens.tokens:
        return
    pairs = enumerate(zip(own, tokens.tokens, strict=False))
    first = next((i for i, (a, b) in pairs if a != b), min(len(own), len(tokens.tokens)))
    raise CheckpointError(
        f"{where}: the language model has {len(own)} tokens and the recogniser {len(tokens.tokens)}, which "
        f"differ from token {first}; use a language model that was trained with the recogniser's token list"
    )
