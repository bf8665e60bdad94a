"""Use one name for each weight, whichever version of ESPnet built the model.

ESPnet 202611 renamed the layers after the convolutions of seven subsampling classes: `embed.out.0`, a linear
    map, became `embed.out`, and `embed.out.1`, the positional encoding, became `embed.pos_enc`. A model built
    with either version gets the names of 202511 here, so that sites, adapters, fingerprints and files use one
    naming, which both versions load: 202611 renames the weights that it reads.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from adaptkit.errors import CheckpointError

# among all encoders, decoders, frontends, normalisations and language models, only these differ
_RENAMED = frozenset(
    (
        *("Conv1dSubsampling1", "Conv1dSubsampling2", "Conv1dSubsampling3"),
        *("Conv2dSubsampling", "Conv2dSubsampling1", "Conv2dSubsampling2", "Conv2dSubsampling6"),
    )
)
# 202611: 202511
_LAYERS = {"out.weight": "out.0.weight", "out.bias": "out.0.bias", "pos_enc.": "out.1."}


def adopt(model: nn.Module) -> nn.Module:
    """Give the renamed layers of a model their names in ESPnet 202511; its computation stays the same.

    Afterwards, its `load_state_dict` accepts both spellings.
    """
    for _, layers in _renamed(model):
        if isinstance(layers.out, nn.Linear):
            positions = layers.pos_enc
            del layers.pos_enc
            layers.out = _Layers(layers.out, positions)
            object.__setattr__(layers, "pos_enc", positions)  # still called by this name, but not registered
        layers.register_load_state_dict_pre_hook(_rename)
    return model


class _Layers(nn.Sequential):
    """The layers after the convolutions by their numbers in 202511; 202611 itself calls the second."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply the first, the linear map."""
        return self[0](x)


def canonical(model: nn.Module, weights: Mapping[str, Tensor], where: Path) -> dict[str, Tensor]:
    """Name the weights of a file, in either spelling, as `model` does.

    Both spellings of one weight in a file are a CheckpointError that begins with `where`.
    """
    prefixes = [prefix for prefix, _ in _renamed(model)]
    renamed = {}
    for name, tensor in weights.items():
        known = name
        for prefix in prefixes:
            known = _in_202511(known, prefix)
        if known != name and known in weights:
            raise CheckpointError(
                f"{where}: has both {name} and {known}, which are one weight, named as in ESPnet 202611 and "
                "202511; use the model file that ESPnet wrote"
            )
        renamed[known] = tensor
    return renamed


def _renamed(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules with renamed layers, each with the prefix of its weights' names."""
    for path, module in model.named_modules():
        if type(module).__name__ in _RENAMED:
            yield f"{path}." if path else "", module


def _in_202511(name: str, prefix: str) -> str:
    """Return a weight's name in ESPnet 202511, if it belongs to the module that `prefix` names.

    >>> _in_202511("encoder.embed.out.weight", "encoder.embed.")
    'encoder.embed.out.0.weight'
    """
    for new, old in _LAYERS.items():
        if name == prefix + new or (new.endswith(".") and name.startswith(prefix + new)):
            return prefix + old + name.removeprefix(prefix + new)
    return name


def _rename(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Rename weights that are about to be loaded, after 202611's own renaming."""
    for name in list(state_dict):
        state_dict[_in_202511(name, prefix)] = state_dict.pop(name)
