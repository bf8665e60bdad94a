"""Configure a new base model: ESPnet's yaml, completed with tokens, features and statistics."""

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch

from adaptkit import config
from adaptkit import tokens as text_tokens
from adaptkit.base import build, checkpoint, preprocessor
from adaptkit.base.checkpoint import BaseModel
from adaptkit.errors import ConfigError, DataError, listed
from adaptkit.features.fbank import FbankOptions, read_options
from adaptkit.files import replacing
from adaptkit.kaldi import datadir
from adaptkit.tokens import TokenList

_LOG = logging.getLogger(__name__)
_BPE = "bpe.model"


def make_config(
    model_yaml: Path,
    train_set: Path,
    folder: Path,
    *,
    token_type: Literal["char", "bpe"],
    num_tokens: int,
) -> dict[str, Any]:
    """Complete ESPnet's training yaml to a model's `config.yaml`; files that it names go to `folder`.

    Its training options are not used, as a log message says: `base.train` of the experiment replaces them.
    """
    given = config.read_yaml(model_yaml)
    unused = sorted(map(str, set(given) - build.MODEL_KEYS))
    if unused:
        _LOG.info("%s: not used, base.train replaces them: %s", model_yaml, listed(unused))
    options = {name: value for name, value in given.items() if name not in preprocessor.KEYS}
    completed = build.complete(options, str(model_yaml))
    tokens = _make_tokens(train_set, folder, token_type=token_type, num_tokens=num_tokens)
    completed |= {
        "token_list": list(tokens.tokens),
        "token_type": token_type,
        "bpemodel": str(folder / _BPE) if tokens.bpe else None,
    }
    if completed["frontend"] is None:
        completed["adaptkit"] = {"features": read_options(train_set / "feats.json").to_dict()}
    if completed["normalize"] == "global_mvn" and "stats_file" not in completed["normalize_conf"]:
        if completed["frontend"] is not None:
            raise ConfigError(
                f"{model_yaml}: normalize: global_mvn of a model that reads speech needs the statistics of "
                "its own features, which ESPnet collects (--collect_stats): name them as "
                "normalize_conf.stats_file, or write normalize: utterance_mvn"
            )
        stats = _copy_statistics(train_set, folder)
        completed["normalize_conf"] = {**completed["normalize_conf"], "stats_file": str(stats)}
    return completed


def untrained(model_yaml: Path, num_tokens: int, changes: Mapping[str, Any] | None = None) -> BaseModel:
    """Build a model from ESPnet's training yaml with random weights and numbered tokens, for benchmarks.

    `changes` replaces keys of the yaml.
    """
    given = {**config.read_yaml(model_yaml), **(changes or {})}
    completed = build.complete({**given, "normalize": None, "normalize_conf": {}}, str(model_yaml))
    words = [f"token{index}" for index in range(num_tokens - 3)]
    completed["token_list"] = ["<blank>", "<unk>", *words, "<sos/eos>"]
    if completed["frontend"] is None:
        completed["adaptkit"] = {"features": FbankOptions(num_bins=completed["input_size"]).to_dict()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return checkpoint.wrap(model_yaml, completed, build.build(completed, str(model_yaml)))


def _make_tokens(train_set: Path, folder: Path, *, token_type: str, num_tokens: int) -> TokenList:
    texts = [utterance.text for utterance in datadir.read(train_set).utterances]
    if token_type == "char":
        return text_tokens.char_tokens(texts)
    return text_tokens.bpe_tokens(texts, num_tokens, folder / _BPE)


def _copy_statistics(train_set: Path, folder: Path) -> Path:
    """Copy the normalisation statistics of the features into the folder of the model."""
    source, target = train_set / "feats_stats.npz", folder / "feats_stats.npz"
    if not source.exists():
        raise DataError(f"{source}: no such file; 'adaptkit feats' writes it with --cmvn {source}")
    with replacing(target) as temporary:
        shutil.copyfile(source, temporary)
    return target
