"""Start a new base model from the weights of another, named by `base.init`.

ESPnet's `--init_param` copies what the user names and ignores what does not fit; here the whole encoder must
fit, and everything left out is logged.
"""

import logging
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from adaptkit.base.checkpoint import BaseModel
from adaptkit.errors import ConfigError, listed

_LOG = logging.getLogger(__name__)
_OF_TOKENS = (  # parameters with a row for each token
    "ctc.ctc_lo.",
    "encoder.conditioning_layer.",
    "decoder.embed.",
    "decoder.output_layer.",
    "decoder.output.",  # of an RNN decoder
    "joint_network.lin_out.",
)


def take_over(target: BaseModel, source: BaseModel) -> bool:
    """Copy the weights and normalisation statistics of `source` into the model of `target`.

    If the two have different tokens, the weights with a row per token keep their initialisation. A different
    encoder or different features are refused with a ConfigError. A part that only one of them has, such as a
    decoder, is left out. Returns whether every weight was copied.
    """
    if source.features != target.features:
        raise ConfigError(
            f"base.init {source.path}: was trained on other features ({_differences(source, target)}); "
            "extract the training set's features with its options, or start from another model"
        )
    theirs, own = source.model.state_dict(), target.model.state_dict()
    skipped = () if source.tokens.tokens == target.tokens.tokens else _OF_TOKENS
    taken = {
        name: tensor
        for name, tensor in theirs.items()
        if name in own and own[name].shape == tensor.shape and not name.startswith(skipped)
    }
    _refuse_other_encoder(source, {n: t for n, t in own.items() if n not in taken}, theirs, skipped)
    with torch.no_grad():
        for name, tensor in taken.items():
            own[name].copy_(tensor)
    _LOG.info("%s: took %d of %d tensors of %s", target.path, len(taken), len(own), source.path)
    new = _name_parts(name for name in own if name not in taken)
    if new:
        why = "; the tokens differ" if skipped else ""
        _LOG.warning("%s: %s: initialised at random%s", target.path, listed(new), why)
    unused = _name_parts(name for name in theirs if name not in taken)
    if unused:
        _LOG.warning("%s: not used: %s", source.path, listed(unused))
    return not new


def _refuse_other_encoder(
    source: BaseModel, missed: Mapping[str, Tensor], theirs: Mapping[str, Tensor], skipped: tuple[str, ...]
) -> None:
    names = [n for n in missed if n.startswith("encoder.") and not n.startswith(skipped)]
    if not names:
        return
    first = names[0]
    shapes = [list(weights[first].shape) for weights in (theirs, missed) if first in weights]
    found = f"of shape {shapes[0]}, not {shapes[1]}" if first in theirs else "missing"
    raise ConfigError(
        f"base.init {source.path}: its encoder differs from that of base.model: {first} is {found}"
        f"{f', and {len(names) - 1} more' if len(names) > 1 else ''}; omit base.model to train the same "
        "architecture further, or start from a model with this encoder"
    )


def _differences(source: BaseModel, target: BaseModel) -> str:
    theirs, own = (dict(model.features or {}) for model in (source, target))
    if not theirs or not own:
        return f"{'speech' if not theirs else 'filterbanks'}, not {'speech' if not own else 'filterbanks'}"
    keys = sorted({*theirs, *own})
    return listed([f"{k} {theirs.get(k)}, not {own.get(k)}" for k in keys if theirs.get(k) != own.get(k)])


def _name_parts(names: Iterable[str]) -> list[str]:
    """Return the first two parts of each name, once, in order."""
    return list(dict.fromkeys(".".join(name.split(".")[:2]) for name in names))
