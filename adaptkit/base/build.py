"""Build an ESPnet recogniser from its own configuration without importing `espnet2.tasks`.

The constructors are called in the order of `espnet2.tasks.asr.ASRTask.build_model`, from the table in
`base.classes`: importing the task itself takes seconds and attempts downloads. A class outside the table may
run code; the task builds it if the user trusts the configuration (see `base.trust`), with a log message.
"""

import contextlib
import inspect
import logging
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from adaptkit import config as configuration
from adaptkit.base import names, owsm, schema, transducer
from adaptkit.base.classes import (
    CLASSES,
    CTC,
    JOINT_NETWORK,
    LANGUAGE_MODELS,
    NEWER_OPTIONS,
    OF_OWSM_CTC,
    OWSM_MODEL,
    import_class,
    import_unchecked,
)
from adaptkit.base.permitted import find_unknown, refuse_untrusted
from adaptkit.errors import AdaptkitError, ConfigError, nearest
from adaptkit.files import require_regular
from adaptkit.tensors import AllocationLimit, memory_bytes

_LOG = logging.getLogger(__name__)

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
    **{"use_preprocessor": True, "non_linguistic_symbols": None, "cleaner": None, "g2p": None},
}
_CONFS = [f"{section}_conf" for section in (*CLASSES, "ctc", "joint_net")]
_OTHER_CTC = ("builtin2", "brctc", "cudnnctc", "gtnctc", "warpctc")  # other losses, with the same weights
_MOST_STATISTICS = 64 << 20  # bytes
MODEL_KEYS = frozenset((*_DEFAULTS, *_CONFS, "token_list", "token_type", "bpemodel"))


def complete(config: Mapping[str, Any], where: str = "config.yaml") -> dict[str, Any]:
    """Check a configuration and fill in the options that ESPnet's yaml may omit, so that ESPnet can read it.

    Anything wrong raises a ConfigError whose message begins with `where`.
    """
    schema.check(config, where)
    owsm.refuse_unusable(config, where)
    filled = {**_DEFAULTS, **{name: {} for name in _CONFS}, **config}
    if filled["input_size"] is not None:
        filled.update(frontend=None, frontend_conf={})  # features come from the data, as in ESPnet
    return {name: {} if value is None and name in _CONFS else value for name, value in filled.items()}


def build(
    config: Mapping[str, Any], where: str = "config.yaml", *, most_bytes: int | None = None
) -> nn.Module:
    """Build an `ESPnetASRModel` with new weights from a completed configuration with its `token_list`.

    For OWSM it is an `ESPnetS2TModel` that pads the speech itself (see `base.owsm`).

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
    unknown, prompting = find_unknown(config, where), owsm.read_prompting(config, where)
    config = _with_builtin_ctc(config, where)
    with _refusing(f"{where}: ESPnet rejects the configuration"), AllocationLimit(most_bytes, too_large):
        if unknown:
            refuse_untrusted(config, unknown, where)
            built = _build_by_task(config, unknown)
        else:
            with _naming(where):
                built = _build_known(config)
    return owsm.prepare(names.adopt(built), prompting)


def _with_builtin_ctc(config: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """Replace other implementations of the CTC loss, which need further packages, with torch's."""
    kind = config["ctc_conf"].get("ctc_type", "builtin")
    if kind not in _OTHER_CTC:
        return config
    _LOG.info("%s: ctc_conf.ctc_type: %s is read as builtin: the weights are the same", where, kind)
    return {**config, "ctc_conf": {**config["ctc_conf"], "ctc_type": "builtin"}}


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
    parts["decoder"], parts["joint_network"] = _make_decoder(config, **widths)
    ctc_widths = {"odim": len(tokens), "encoder_output_size": encoder.output_size()}
    parts["ctc"] = _call(import_class(CTC), "ctc_conf", config, **ctc_widths)
    model_conf = {**config, "model_conf": {**config["model_conf"], "report_cer": False, "report_wer": False}}
    outer = {"postencoder": None, "vocab_size": len(tokens), "token_list": tokens}
    path = CLASSES["model"]["espnet"]
    if owsm.is_owsm(config):
        path = OWSM_MODEL
        del parts["joint_network"]
    if owsm.is_owsm_ctc(config):
        path = OF_OWSM_CTC["model"]["espnet_ctc"]
        del parts["preencoder"], parts["decoder"], outer["postencoder"]
        size = config["promptencoder_conf"].get("output_size")
        parts["prompt_encoder"] = _make(config, "promptencoder", input_size=size, input_layer=None)
    with transducer.importable():
        built = _call(import_class(path), "model_conf", model_conf, encoder=encoder, **parts, **outer)
    built.error_calculator = None  # transducers create it even with report_cer: false
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
        made = import_class(LANGUAGE_MODELS[kind])
        return _call(made, "lm_conf", {"lm_conf": options}, vocab_size=num_tokens).float()


def _make_decoder(
    config: Mapping[str, Any], vocab_size: int, encoder_output_size: int
) -> tuple[nn.Module | None, nn.Module | None]:
    """Build the decoder, and the joint network of a transducer."""
    if config["decoder"] != "transducer":
        widths = {"vocab_size": vocab_size, "encoder_output_size": encoder_output_size}
        return _make(config, "decoder", **widths), None
    if config["model_conf"].get("transducer_multi_blank_durations"):
        raise ConfigError(
            "model_conf.transducer_multi_blank_durations: adaptkit does not support the loss of "
            "multi-blank transducers; use a transducer with one blank"
        )
    decoder = _make(config, "decoder", vocab_size=vocab_size, embed_pad=0)
    widths = {"output_size": vocab_size, "encoder_size": encoder_output_size, "decoder_size": decoder.dunits}
    return decoder, _call(import_class(JOINT_NETWORK), "joint_net_conf", config, **widths)


def build_specaug(options: Mapping[str, Any]) -> nn.Module:
    """Build ESPnet's own SpecAugment, for comparison with ours."""
    return _make({"specaug": "specaug", "specaug_conf": options}, "specaug")


def _make(config: Mapping[str, Any], section: str, **given: Any) -> nn.Module | None:
    """Build the module that a section names; None if it names none."""
    if config[section] is None:
        return None
    if config[f"{section}_conf"].get("stats_file"):
        _check_statistics(Path(config[f"{section}_conf"]["stats_file"]))
    known = {**CLASSES.get(section, {}), **OF_OWSM_CTC.get(section, {})}
    return _call(import_class(known[config[section]]), f"{section}_conf", config, **given)


def _call(kind: type[nn.Module], conf_name: str, config: Mapping[str, Any], **given: Any) -> nn.Module:
    """Construct an ESPnet class with its section's options, refusing options that it does not have."""
    options = dict(config[conf_name])
    parameters = inspect.signature(kind.__init__).parameters
    known = [name for name in parameters if name != "self"]
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    for option in config[conf_name]:
        if option in known or takes_any:
            continue
        if option in NEWER_OPTIONS and options[option] is NEWER_OPTIONS[option]:
            _LOG.info("%s.%s: unknown to this ESPnet; its value changes nothing", conf_name, option)
            del options[option]
        else:
            remedy = nearest(option, known) or f"; known: {', '.join(known)}"
            if option in NEWER_OPTIONS:
                remedy = f", which came with ESPnet 202611; set it to {NEWER_OPTIONS[option]}"
            raise ConfigError(f"{conf_name}.{option}: {kind.__name__} has no such option{remedy}")
    with _refusing(f"{conf_name}: {kind.__name__} rejects {options}"):
        return kind(**given, **options)


@contextlib.contextmanager
def _refusing(what: str) -> Iterator[None]:
    """Convert any exception of ESPnet's to a ConfigError that begins with `what`."""
    try:
        yield
    except AdaptkitError:
        raise
    except Exception as error:  # ESPnet checks few options, so any exception can follow
        raise ConfigError(f"{what}: {type(error).__name__}: {error}"[:2000]) from error


@contextlib.contextmanager
def _naming(where: str) -> Iterator[None]:
    """Prefix the errors of a section with the file that holds it."""
    try:
        yield
    except ConfigError as error:
        raise error if str(error).startswith(where) else ConfigError(f"{where}: {error}") from error


def _check_statistics(path: Path) -> None:
    """Refuse a statistics file of implausible size; numpy's loader does not unpickle."""
    require_regular(path)
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            num_bytes = sum(entry.file_size for entry in archive.infolist())
    else:
        num_bytes = path.stat().st_size
    if num_bytes > _MOST_STATISTICS:
        raise ConfigError(
            f"normalize_conf.stats_file {path}: {num_bytes} bytes are too many for statistics of features; "
            "'adaptkit feats --cmvn' computes them"
        )


def _build_by_task(config: Mapping[str, Any], unknown: list[str]) -> nn.Module:
    names = ", ".join(f"{name}: {config[name]}" for name in unknown)
    if owsm.is_owsm_ctc(config):
        raise ConfigError(f"{names}: not among the classes of OWSM-CTC that adaptkit builds")
    path = "espnet2.tasks.s2t.S2TTask" if owsm.is_owsm(config) else "espnet2.tasks.asr.ASRTask"
    module = path.rpartition(".")[0]
    _LOG.info("%s: unknown to adaptkit; using %s, which takes seconds to import", names, module)
    task = import_unchecked(path)
    with tempfile.TemporaryDirectory() as folder, _refusing(f"{module} rejects the configuration"):
        configuration.write_yaml(Path(folder, "config.yaml"), config)
        with transducer.importable():
            model, _ = task.build_model_from_file(Path(folder, "config.yaml"))
    model.error_calculator = model.specaug = None
    return model.float()
