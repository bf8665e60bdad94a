"""Check the parts of ESPnet's `config.yaml` that adaptkit reads, and bound the numbers given to ESPnet.

ESPnet checks few of them: a wrong type or size would fail in some constructor or exhaust the memory.
"""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field

from adaptkit import config as configuration
from adaptkit.config import Config, FilePath, PositiveFloat, Width
from adaptkit.errors import ConfigError, listed
from adaptkit.experiment import Prompt
from adaptkit.features.fbank import FbankOptions

_MOST = 2**20  # bound of numbers without their own
_MOST_ITEMS = 10_000
_BOUNDS = {  # of options of ESPnet's classes, in any section
    **dict.fromkeys(
        ("output_size", "input_size", "hidden_size", "joint_space_size", "cgmlp_linear_units"), (1, 2**16)
    ),
    **dict.fromkeys(("cnn_module_kernel", "cgmlp_conv_kernel", "merge_conv_kernel"), (1, 4095)),
    **dict.fromkeys(("hop_length", "win_length"), (1, 2**15)),
    **dict.fromkeys(("num_blocks", "num_layers"), (1, 512)),
    **dict.fromkeys(("out_channels", "n_mels"), (1, 4096)),
    "positionwise_conv_kernel_size": (1, 4095),
    "linear_units": (1, 2**18),
    "attention_heads": (1, 1024),
    "n_fft": (2, 2**15),
    "in_channels": (1, 64),
    "max_pos_emb_len": (1, _MOST),
}
_SAMPLING_RATE = re.compile(r"[1-9]\d{3,5}|[1-9]\d{0,2}(\.\d{1,3})?k", re.ASCII)


def _bounded(options: dict[str, Any], depth: int = 0) -> dict[str, Any]:
    """Check the options of a class, and of dicts and lists in them."""
    for name, value in options.items():
        _check(name, value, depth)
    return options


def _check(name: str, value: Any, depth: int) -> None:
    if isinstance(value, dict | list):
        if depth > 3 or len(value) > _MOST_ITEMS:
            raise ValueError(f"{name}: more than 4 levels or {_MOST_ITEMS} items")
        for key, item in value.items() if isinstance(value, dict) else ((name, item) for item in value):
            _check(str(key), item, depth + 1)
        return
    if name == "stats_file" and not isinstance(value, str):
        raise ValueError(f"stats_file: expected the path of a file, found {value!r}")
    lowest, highest = _BOUNDS.get(name, (-_MOST, _MOST))
    if name == "win_length" and value is None:
        return
    if name in _BOUNDS and type(value) is not int:
        raise ValueError(f"{name}: expected an integer from {lowest} to {highest}, found {value!r}")
    if isinstance(value, int | float) and not lowest <= value <= highest:  # also not a number
        raise ValueError(f"{name}: expected a number from {lowest} to {highest}, found {value!r}")


def _empty_if_none(options: Any) -> Any:
    return {} if options is None else options


def _texts(tokens: Any) -> Any:
    """Check the tokens; without quotes, yaml reads a number or `yes` as another type."""
    if tokens is None or isinstance(tokens, str):  # a file, in a yaml for training
        return tokens
    if not isinstance(tokens, list):
        raise ValueError("expected a list of tokens")
    for index, token in enumerate(tokens):
        if not isinstance(token, str) or not token:
            raise ValueError(f"token {index} is {token!r}, expected a string; put it in quotes")
    if len(set(tokens)) < len(tokens):
        twice = [token for token, count in Counter(tokens).items() if count > 1]
        raise ValueError(f"duplicate tokens: {listed(twice)}; each token may appear only once")
    return tokens


def _rate(options: dict[str, Any]) -> dict[str, Any]:
    rate = options.get("fs", 16000)
    if not isinstance(rate, int | str) or not _SAMPLING_RATE.fullmatch(str(rate)):
        raise ValueError(f"fs: expected a sampling rate such as 16000 or 16k, found {rate!r}")
    return options


def _symbols(options: dict[str, Any]) -> dict[str, Any]:
    """Check the options of a preprocessor that affect a model's input and output."""
    for name in ("space_symbol", "unk_symbol", "delimiter"):
        if options.get(name) is not None and (not isinstance(options[name], str) or not options[name]):
            raise ValueError(f"{name}: expected a string, found {options[name]!r}")
    symbols = options.get("nonsplit_symbol") or []
    if not isinstance(symbols, list) or not all(isinstance(symbol, str) for symbol in symbols):
        raise ValueError(f"nonsplit_symbol: expected a list of strings, found {symbols!r}")
    peak = options.get("speech_volume_normalize")
    if peak is not None and (isinstance(peak, bool) or not isinstance(peak, int | float) or peak <= 0):
        raise ValueError(f"speech_volume_normalize: expected a number above 0, found {peak!r}")
    return options


Options = Annotated[dict[str, Any], BeforeValidator(_empty_if_none), AfterValidator(_bounded)]
Name = Annotated[str, Field(min_length=1)]
Preprocessing = Annotated[Options, AfterValidator(_symbols)]
Tokens = Annotated[Any, BeforeValidator(_texts)]


class OwnSection(Config):
    """The section `adaptkit` that this toolkit adds to ESPnet's configuration."""

    features: dict[str, Any] | None = Field(None, description="options of the features the model reads")
    augment: dict[str, Any] | None = Field(None, description="augmentation it was trained with")
    prompt: Prompt | None = Field(None, description="prompt of an OWSM model")
    merged: list[dict[str, Any]] = Field([], description="folds of adapters, the last at the end")


class ModelConfig(Config):
    """The parts of ESPnet's configuration that adaptkit reads; training options are ignored."""

    model_config = ConfigDict(extra="ignore")

    token_list: Tokens = None
    token_type: str | None = None
    use_preprocessor: bool = True
    preprocessor: Name | None = None
    preprocessor_conf: Preprocessing = {}
    non_linguistic_symbols: FilePath | list[Name] | None = None
    cleaner: Name | list[Name] | None = None
    speech_volume_normalize: PositiveFloat | None = None
    bpemodel: FilePath | None = None
    input_size: Width | None = None
    frontend: Name | None = None
    frontend_conf: Annotated[Options, AfterValidator(_rate)] = {}
    specaug: Name | None = None
    specaug_conf: Options = {}
    normalize: Name | None = None
    normalize_conf: Options = {}
    preencoder: Name | None = None
    preencoder_conf: Options = {}
    encoder: Name = "rnn"
    encoder_conf: Options = {}
    postencoder: Name | None = None
    postencoder_conf: Options = {}
    promptencoder: Name | None = None
    promptencoder_conf: Options = {}
    decoder: Name | None = None
    decoder_conf: Options = {}
    ctc_conf: Options = {}
    joint_net_conf: Options = {}
    model: Name | None = None
    model_conf: Options = {}
    init: Name | None = None
    adaptkit: OwnSection | None = None


def check(config: Mapping[str, Any], where: str) -> None:
    """Refuse a configuration with values that no model can have; `where` starts the message."""
    configuration.check(ModelConfig, config, where)


def read_features(config: Mapping[str, Any], where: str) -> dict[str, Any] | None:
    """Return the options of the features that a model reads, with defaults; None if it reads speech."""
    given = (config.get("adaptkit") or {}).get("features")
    try:
        return None if given is None else asdict(FbankOptions.from_dict(given))
    except ConfigError as error:
        raise ConfigError(f"{where}: adaptkit.features: {error}") from error
