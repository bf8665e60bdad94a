"""Identify a base model by all that affects its output or its training."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from torch import nn

from adaptkit.base import owsm
from adaptkit.tensors import hash_tensors

_FINGERPRINTED = (  # options that affect the words recognised with the same weights, or their training
    *("frontend", "frontend_conf", "normalize", "normalize_conf", "preencoder", "preencoder_conf"),
    *("encoder", "encoder_conf", "postencoder", "postencoder_conf", "decoder", "decoder_conf", "ctc_conf"),
    *("joint_net_conf", "model", "model_conf", "input_size", "token_list", "token_type"),
)


def fingerprint_of(
    config: Mapping[str, Any],
    model: nn.Module,
    features: Mapping[str, Any] | None,
    bpe: bytes | None,
    prepared: Mapping[str, Any],
) -> str:
    """Hash the preprocessing, the architecture, and every weight and buffer, to 32 hexadecimal digits.

    The prompt of an OWSM model follows them, as in `...-eng-asr`.
    """
    described = {name: config.get(name) for name in _FINGERPRINTED}
    described["features"] = features
    described |= {"preprocessor": prepared} if prepared else {}
    described["bpe"] = None if bpe is None else hashlib.sha256(bpe).hexdigest()
    normalize = {name: value for name, value in config["normalize_conf"].items() if name != "stats_file"}
    described["normalize_conf"] = normalize  # the statistics themselves are buffers
    described |= owsm.describe(model.prompting, config)
    words = json.dumps(described, sort_keys=True, default=str)
    hashed = hash_tensors(model.state_dict(), prefix=words)
    return hashed if model.prompting is None else f"{hashed}-{model.prompting}"
