"""Build an ESPnet recogniser from its own configuration without importing `espnet2.tasks`.

The constructors are called in the order of `espnet2.tasks.asr.ASRTask.build_model`, from the table below:
importing the task itself takes 16 s and attempts downloads. A class outside the table may run code; only if
the user trusts the configuration (see `base.trust`), the task builds it, with a log message.
"""

import contextlib
import importlib
import inspect
import io
import logging
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from adaptkit import config as configuration
from adaptkit.base import schema
from adaptkit.base.trust import REMEDY, RISKS, is_config_trusted
from adaptkit.errors import AdaptkitError, ConfigError, listed, nearest
from adaptkit.files import require_regular
from adaptkit.tensors import AllocationLimit, memory_bytes

_LOG = logging.getLogger(__name__)

# section of config.yaml: option: class, as in espnet2/tasks/asr.py of ESPnet 202511
_CLASSES = {
    "frontend": {"default": "espnet2.asr.frontend.default.DefaultFrontend"},
    "specaug": {"specaug": "espnet2.asr.specaug.specaug.SpecAug"},
    "normalize": {
        "global_mvn": "espnet2.layers.global_mvn.GlobalMVN",
        "utterance_mvn": "espnet2.layers.utterance_mvn.UtteranceMVN",
    },
    "preencoder": {
        "linear": "espnet2.asr.preencoder.linear.LinearProjection",
        "sinc": "espnet2.asr.preencoder.sinc.LightweightSincConvs",
    },
    "encoder": {
        "conformer": "espnet2.asr.encoder.conformer_encoder.ConformerEncoder",
        "transformer": "espnet2.asr.encoder.transformer_encoder.TransformerEncoder",
        "e_branchformer": "espnet2.asr.encoder.e_branchformer_encoder.EBranchformerEncoder",
    },
    "decoder": {
        "transformer": "espnet2.asr.decoder.transformer_decoder.TransformerDecoder",
        "rnn": "espnet2.asr.decoder.rnn_decoder.RNNDecoder",
    },
}
LANGUAGE_MODELS = {
    "seq_rnn": "espnet2.lm.seq_rnn_lm.SequentialRNNLM",
    "transformer": "espnet2.lm.transformer_lm.TransformerLM",
}
_DEFAULTS = {  # of options that an ESPnet training yaml may omit, as in espnet2/bin/asr_train.py
    "frontend": "default",
    "specaug": None,
    "normalize": "utterance_mvn",
    "preencoder": None,
    "encoder": "rnn",
    "postencoder": None,
    "decoder": None,
    "model": "espnet",
    "init": None,
    "input_size": None,
}
_CONFS = [f"{section}_conf" for section in (*_CLASSES, "postencoder", "ctc", "joint_net", "model")]
_MOST_STATISTICS = 64 << 20  # bytes
MODEL_KEYS = frozenset((*_DEFAULTS, *_CONFS, "token_list", "token_type", "bpemodel"))


def complete(config: Mapping[str, Any], where: str = "config.yaml") -> dict[str, Any]:
    """Check a configuration and fill in what ESPnet's yaml may omit, so that ESPnet itself reads the result.

    What is wrong is a ConfigError that begins with `where`.
    """
    schema.check(config, where)
    filled = {**_DEFAULTS, **{name: {} for name in _CONFS}, **config}
    if filled["input_size"] is not None:
        filled.update(frontend=None, frontend_conf={})  # features come from the data, as in ESPnet
    return {name: {} if value is None and name in _CONFS else value for name, value in filled.items()}


def build(
    config: Mapping[str, Any], where: str = "config.yaml", *, most_bytes: int | None = None
) -> nn.Module:
    """Build an `ESPnetASRModel` with new weights from a completed configuration with its `token_list`.

    A configuration that ESPnet rejects, or whose model takes more than `most_bytes` (by default, the memory
    of this machine), is a ConfigError. ESPnet's error rates during training are disabled: they would decode
    every batch of a frozen base. Its SpecAugment, which has no weights, is left out: `specaug.translate`
    converts its settings to ours.
    """
    config = complete(config, where)
    most_bytes = memory_bytes() if most_bytes is None else most_bytes
    too_large = ConfigError(
        f"{where}: describes a model that takes more than {most_bytes / 2**30:.1f} GiB, "
        "the memory of this machine or several times the size of its weights; reduce its sizes"
    )
    unknown = _find_unknown(config)
    with _refusing(f"{where}: ESPnet rejects the configuration"), AllocationLimit(most_bytes, too_large):
        if not unknown:
            with _naming(where):
                return _build_known(config)
        _refuse_untrusted(config, unknown, where)
        return _build_by_task(config, unknown)


def _build_known(config: Mapping[str, Any]) -> nn.Module:
    """Build a model whose classes are all in the table."""
    parts: dict[str, nn.Module | None] = {"specaug": None}
    size = config["input_size"]
    for name in ("frontend", "normalize", "preencoder"):
        parts[name] = _make(config, name)
        if name in ("frontend", "preencoder") and parts[name] is not None:
            size = parts[name].output_size()
    encoder = _make(config, "encoder", input_size=size)
    tokens = list(config["token_list"])
    widths = {"vocab_size": len(tokens), "encoder_output_size": encoder.output_size()}
    decoder = _make(config, "decoder", **widths)
    ctc = _call(
        _import("espnet2.asr.ctc.CTC"),
        "ctc_conf",
        config,
        odim=len(tokens),
        encoder_output_size=encoder.output_size(),
    )
    model = _import("espnet2.asr.espnet_model.ESPnetASRModel")
    model_conf = {**config, "model_conf": {**config["model_conf"], "report_cer": False, "report_wer": False}}
    outer = {"postencoder": None, "joint_network": None, "vocab_size": len(tokens), "token_list": tokens}
    built = _call(
        model, "model_conf", model_conf, encoder=encoder, decoder=decoder, ctc=ctc, **parts, **outer
    )
    return built.float()  # GlobalMVN has float64 statistics until its first forward pass converts them


def build_language_model(
    kind: str, options: Mapping[str, Any], where: str, *, num_tokens: int, most_bytes: int
) -> nn.Module:
    """Build one of ESPnet's `LANGUAGE_MODELS` with new weights, as `build` does a recogniser."""
    too_large = ConfigError(
        f"{where}: describes a language model that takes more than {most_bytes / 2**30:.1f} GiB, several "
        "times the size of its weights; use the config.yaml that ESPnet wrote with them"
    )
    schema.check({"model_conf": options}, where)
    with AllocationLimit(most_bytes, too_large), _naming(where):
        made = _import(LANGUAGE_MODELS[kind])
        return _call(made, "lm_conf", {"lm_conf": options}, vocab_size=num_tokens).float()


def build_specaug(options: Mapping[str, Any]) -> nn.Module:
    """Build ESPnet's own SpecAugment, for comparison with ours."""
    return _make({"specaug": "specaug", "specaug_conf": options}, "specaug")


def _make(config: Mapping[str, Any], section: str, **given: Any) -> nn.Module | None:
    """Build the module that a section names; None if it names none."""
    if config[section] is None:
        return None
    if config[f"{section}_conf"].get("stats_file"):
        _check_statistics(Path(config[f"{section}_conf"]["stats_file"]))
    return _call(_import(_CLASSES[section][config[section]]), f"{section}_conf", config, **given)


def _call(kind: type[nn.Module], conf_name: str, config: Mapping[str, Any], **given: Any) -> nn.Module:
    """Construct an ESPnet class with its section's options, refusing options that it does not have."""
    options = config[conf_name]
    known = [name for name in inspect.signature(kind.__init__).parameters if name != "self"]
    for option in options:
        if option not in known:
            remedy = nearest(option, known) or f"; known: {', '.join(known)}"
            raise ConfigError(f"{conf_name}.{option}: {kind.__name__} has no such option{remedy}")
    with _refusing(f"{conf_name}: {kind.__name__} rejects {dict(options)}"):
        return kind(**given, **options)


@contextlib.contextmanager
def _refusing(what: str) -> Iterator[None]:
    """Convert whatever ESPnet raises about its options to a ConfigError that begins with `what`."""
    try:
        yield
    except AdaptkitError:
        raise
    except Exception as error:  # it checks few of them, so any exception can follow
        raise ConfigError(f"{what}: {type(error).__name__}: {error}"[:2000]) from error


@contextlib.contextmanager
def _naming(where: str) -> Iterator[None]:
    """Begin the errors of a section with the file that holds it."""
    try:
        yield
    except ConfigError as error:
        raise error if str(error).startswith(where) else ConfigError(f"{where}: {error}") from error


def _import(path: str) -> type[nn.Module]:
    module, _, name = path.rpartition(".")
    with contextlib.redirect_stdout(io.StringIO()) as printed:  # ESPnet reports on flash_attn
        found = importlib.import_module(module)
    _LOG.debug("%s", printed.getvalue())
    return getattr(found, name)


def _check_statistics(path: Path) -> None:
    """Refuse statistics that are no file of a plausible size; numpy itself unpickles nothing."""
    require_regular(path)
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            num_bytes = sum(entry.file_size for entry in archive.infolist())
    else:
        num_bytes = path.stat().st_size
    if num_bytes > _MOST_STATISTICS:
        raise ConfigError(
            f"normalize_conf.stats_file {path}: {num_bytes} bytes are no statistics of features; 'adaptkit "
            "feats --cmvn' makes them"
        )


def _find_unknown(config: Mapping[str, Any]) -> list[str]:
    """List the sections that name a class outside the table."""
    unknown = [name for name in _CLASSES if config[name] is not None and config[name] not in _CLASSES[name]]
    if config["postencoder"] is not None:
        unknown.append("postencoder")
    return unknown if config["model"] in ("espnet", None) else [*unknown, "model"]


def _refuse_untrusted(config: Mapping[str, Any], unknown: list[str], where: str) -> None:
    """Refuse classes outside the table, with those that are in it, unless the configuration is trusted."""
    if is_config_trusted():
        return
    words = []
    for section in unknown:
        known = _CLASSES.get(section, {"model": ("espnet",)}.get(section, ()))
        words.append(f"{section}: {config[section]}{nearest(config[section], known).replace('; ', ', ')}")
    raise ConfigError(
        f"{where}: {listed(words)}: not among the classes that adaptkit builds itself "
        f"({listed([name for part in unknown for name in _CLASSES.get(part, ())]) or 'none'}); {RISKS}; "
        f"{REMEDY}"
    )


def _build_by_task(config: Mapping[str, Any], unknown: list[str]) -> nn.Module:
    names = ", ".join(f"{name}: {config[name]}" for name in unknown)
    _LOG.info("%s: unknown to adaptkit; using espnet2.tasks.asr, which takes 16 s to import", names)
    task = _import("espnet2.tasks.asr.ASRTask")
    with tempfile.TemporaryDirectory() as folder, _refusing("espnet2.tasks.asr rejects the configuration"):
        configuration.write_yaml(Path(folder, "config.yaml"), config)
        model, _ = task.build_model_from_file(Path(folder, "config.yaml"))
    model.error_calculator = model.specaug = None
    return model.float()
