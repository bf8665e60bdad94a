"""Choose the search for a model, and refuse one that the model does not support."""

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from adaptkit.base.checkpoint import BaseModel
from adaptkit.base.search import lm as language_models
from adaptkit.base.search.lm import LanguageModel
from adaptkit.base.search.searcher import Searcher
from adaptkit.errors import ConfigError
from adaptkit.search_options import (
    AUTO,
    Beam,
    Greedy,
    SearchOptions,
    SearchRequest,
    Transducer,
    change_search,
)

_LOG = logging.getLogger(__name__)
_DECODERS = ("transformer_decoder", "rnn_decoder")  # ESPnet modules that score token by token
_BEAM_SIZE = 10
_OWSM_BEAM_SIZE = 5  # of espnet2.bin.s2t_inference
_LM_WEIGHT = 0.6  # as in ESPnet's recipe for LibriSpeech


@dataclass(frozen=True)
class _Parts:
    """The parts of a model that matter for a search."""

    has_ctc: bool
    has_attention: bool
    is_transducer: bool
    is_owsm: bool = False
    is_translator: bool = False  # CTC, which only transcribes, is useless


def new_searcher(base: BaseModel, request: SearchRequest) -> Searcher:
    """Resolve a request for a model: choose the search for `auto`, check it, and load the language model."""
    parts, reason = _parts(base.model), "as requested"
    options = request.search or AUTO
    if options == AUTO:
        options, reason = _choose(parts, len(base.tokens.tokens), has_lm=request.lm is not None)
    options = change_search(options, _changes(options, request))
    _check(parts, options, base)
    if parts.is_transducer and options.kind == "greedy":
        _LOG.warning("%s: a transducer, decoded by its auxiliary CTC alone, as requested", base.path)
    lm = _load_lm(base, options)
    _LOG.info("search: %s (%s)", describe(options), reason)
    return Searcher(options, lm, reason)


def quick_searcher(model: nn.Module) -> Searcher:
    """Return the fastest search of a model, for validation: greedy, or a beam of 1 with attention only."""
    parts = _parts(model)
    if parts.is_transducer:
        return Searcher(Transducer(beam_size=1), reason="a transducer")
    if parts.has_ctc and not parts.is_translator:
        return Searcher(Greedy(), reason="CTC")
    return Searcher(Beam(beam_size=1, ctc_weight=0.0), reason="attention without CTC")


def describe(options: SearchOptions) -> str:
    """Return a search's kind and the options that differ from the defaults, in one line.

    >>> describe(Beam(beam_size=20))
    'beam with beam_size=20, ctc_weight=0.3'
    """
    always = {"beam_size", "ctc_weight", "lm_weight"}
    fields = type(options).model_fields
    shown = {
        name: getattr(options, name)
        for name, field in fields.items()
        if name != "kind" and (name in always or getattr(options, name) != field.default)
    }
    if not shown.get("lm_weight"):
        shown.pop("lm_weight", None)
    words = ", ".join(f"{name}={value}" for name, value in shown.items())
    return f"{options.kind} with {words}" if words else options.kind


def _parts(model: nn.Module) -> _Parts:
    is_transducer = bool(model.use_transducer_decoder)
    decoder = None if is_transducer else model.decoder
    has_attention = decoder is not None and type(decoder).__module__.endswith(_DECODERS)
    prompting = model.prompting
    is_translator = has_attention and prompting is not None and not prompting.is_transcript
    return _Parts(model.ctc is not None, has_attention, is_transducer, prompting is not None, is_translator)


def _choose(parts: _Parts, num_tokens: int, *, has_lm: bool) -> tuple[SearchOptions, str]:
    """Choose the search that a model was trained for, and return it with the reason."""
    weight, beam_size = _LM_WEIGHT if has_lm else 0.0, min(_BEAM_SIZE, num_tokens)
    with_lm = " and a language model" if has_lm else ""
    if parts.is_transducer:
        options = Transducer(beam_size=min(beam_size, num_tokens - 1), lm_weight=weight)
        return options, f"auto: a transducer{with_lm}"
    if parts.is_owsm and parts.has_attention:
        options = Beam(beam_size=min(_OWSM_BEAM_SIZE, num_tokens), ctc_weight=0.0, lm_weight=weight)
        return options, f"auto: OWSM, as in ESPnet's own inference{with_lm}"
    if parts.has_attention:
        what = "CTC and an attention decoder" if parts.has_ctc else "an attention decoder without CTC"
        ctc_weight = 0.3 if parts.has_ctc else 0.0
        options = Beam(beam_size=beam_size, ctc_weight=ctc_weight, lm_weight=weight)
        return options, f"auto: {what}{with_lm}"
    if has_lm:
        return Beam(beam_size=beam_size, ctc_weight=1.0, lm_weight=weight), f"auto: CTC{with_lm}"
    return Greedy(), "auto: CTC, without a decoder that adaptkit can search"


def _changes(options: SearchOptions, request: SearchRequest) -> list[str]:
    """Return the changes to the options, including --lm and --nbest."""
    words = list(request.changes)
    if options.kind == "greedy":
        if request.lm is not None:
            raise ConfigError(
                "--lm: greedy search uses no language model; use --search beam, for a model with CTC alone "
                "with --search-set ctc_weight=1"
            )
        if (request.nbest or 1) > 1:
            raise ConfigError(
                f"--nbest {request.nbest}: greedy search finds one hypothesis; use --search beam, for a "
                "model with CTC alone with --search-set ctc_weight=1"
            )
        return words
    if request.lm is not None:
        words.append(f"lm={json.dumps(str(request.lm), ensure_ascii=False)}")
    return words if request.nbest is None else [*words, f"nbest={request.nbest}"]


def _check(parts: _Parts, options: SearchOptions, base: BaseModel) -> None:
    """Refuse a search that needs parts missing from the model."""
    uses_ctc = options.kind == "greedy" or (options.kind == "beam" and options.ctc_weight > 0)
    if parts.is_translator and uses_ctc:
        raise ConfigError(
            f"{base.path}: prompted for {base.prompting.task}, a translation, whereas CTC transcribes; use "
            "--search beam --search-set ctc_weight=0, or --search auto"
        )
    _CHECKS[options.kind](parts, options, str(base.path))
    num_tokens = len(base.tokens.tokens)
    most = {"greedy": 1, "beam": num_tokens, "transducer": num_tokens - 1}[options.kind]  # the limit of topk
    if options.kind != "greedy" and options.beam_size > most:
        raise ConfigError(
            f"{base.path}: beam_size {options.beam_size} with {num_tokens} tokens; use --search-set "
            f"beam_size={most} or less"
        )
    if options.kind == "transducer" and options.search_type == "maes":
        most_candidates = options.beam_size + options.expansion_beta
        if most_candidates > num_tokens:
            raise ConfigError(
                f"{base.path}: beam_size {options.beam_size} and expansion_beta {options.expansion_beta} "
                f"with {num_tokens} tokens, fewer than their sum; lower one with --search-set"
            )


def _check_greedy(parts: _Parts, options: Greedy, where: str) -> None:
    if not parts.has_ctc and not parts.has_attention and not parts.is_transducer:
        raise ConfigError(
            f"{where}: has no CTC, and a decoder that adaptkit does not search; use a model with CTC, a "
            "Transformer or RNN decoder, or a transducer"
        )
    if not parts.has_ctc:
        other = "transducer" if parts.is_transducer else "beam --search-set ctc_weight=0"
        raise ConfigError(
            f"{where}: the model has no CTC (model_conf.ctc_weight: 0.0), which greedy search needs; use "
            f"--search {other}, or --search auto"
        )


def _check_beam(parts: _Parts, options: Beam, where: str) -> None:
    if parts.is_transducer:
        raise ConfigError(f"{where}: the model is a transducer; use --search transducer")
    if options.ctc_weight > 0 and not parts.has_ctc:
        raise ConfigError(f"{where}: the model has no CTC; use --search-set ctc_weight=0")
    if options.ctc_weight < 1 and not parts.has_attention:
        raise ConfigError(
            f"{where}: the model has no attention decoder, which ctc_weight {options.ctc_weight:g} below 1 "
            "needs; use --search greedy, or --search-set ctc_weight=1 for a CTC prefix beam search"
        )


def _check_transducer(parts: _Parts, options: Transducer, where: str) -> None:
    if not parts.is_transducer:
        other = "beam" if parts.has_attention else "greedy"
        raise ConfigError(f"{where}: not a transducer; use --search {other}, or --search auto")


_CHECKS: dict[str, Callable[..., None]] = {
    "greedy": _check_greedy,
    "beam": _check_beam,
    "transducer": _check_transducer,
}


def _load_lm(base: BaseModel, options: SearchOptions) -> LanguageModel | None:
    """Load the language model that a search needs; refuse one that it would not use."""
    if options.kind == "greedy":
        return None
    if not options.lm_weight:
        if options.lm is not None:
            raise ConfigError(f"lm {options.lm}: not used with lm_weight 0; set --search-set lm_weight=0.5")
        return None
    if options.lm is not None:
        return _suiting(options, language_models.load(options.lm, base))
    if base.files.lm_model is None:
        raise ConfigError(
            f"lm_weight {options.lm_weight:g}, but there is no language model: name its folder with --lm, or "
            "turn it off with --search-set lm_weight=0"
        )
    return _suiting(options, language_models.load_own(base))


def _suiting(options: SearchOptions, lm: LanguageModel) -> LanguageModel:
    """Refuse combinations of search and language model that ESPnet's transducer searches do not support."""
    if options.kind != "transducer" or options.search_type == "default":
        return lm
    remedy = "use --search-set search_type=default"
    if type(lm.module).__name__ == "TransformerLM":
        raise ConfigError(
            f"search_type: {options.search_type}: {lm.path} is a Transformer, which it cannot use; {remedy}, "
            "or a language model of lm: seq_rnn"
        )
    device = next(lm.module.parameters()).device
    if options.search_type in ("tsd", "alsd") and device.type != "cpu":
        raise ConfigError(
            f"search_type: {options.search_type}: starts a language model on the CPU, and it is on {device}; "
            f"{remedy}, or --device cpu"
        )
    return lm
