"""Joint CTC/attention beam search of one utterance through ESPnet's own `BatchBeamSearch` and scorers.

Watanabe et al., Hybrid CTC/attention architecture for end-to-end speech recognition, 2017, with a language
model by shallow fusion. Hypotheses are those of `espnet2.bin.asr_inference.Speech2Text` with the same
settings.
"""

import logging
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from adaptkit.base.classes import import_class
from adaptkit.base.search.cached import cached_decoder, cached_lm
from adaptkit.base.search.paths import BestPath
from adaptkit.base.search.timestamps import NoTimestamps
from adaptkit.search_options import Beam

BatchBeamSearch = import_class("espnet.nets.batch_beam_search.BatchBeamSearch")
BeamSearch = import_class("espnet.nets.beam_search.BeamSearch")
Hypothesis = import_class("espnet.nets.beam_search.Hypothesis")
BatchScorerInterface = import_class("espnet.nets.scorer_interface.BatchScorerInterface")
CTCPrefixScorer = import_class("espnet.nets.scorers.ctc.CTCPrefixScorer")
LengthBonus = import_class("espnet.nets.scorers.length_bonus.LengthBonus")

_LOG = logging.getLogger(__name__)
_BLANK = 0


def search_beam(
    model: nn.Module, encoded: Tensor, options: Beam, lm: nn.Module | None, check: Callable[[], None]
) -> list[BestPath]:
    """Find the n best hypotheses of one utterance's encoder output (U, D), best first.

    `check` is called for every token, and may raise to end the search.
    """
    search = _build(model, options, lm)
    search.check = check
    found = search(x=encoded, maxlenratio=options.maxlenratio, minlenratio=options.minlenratio)
    if not found:  # fewer frames than the required number of tokens
        _LOG.warning(
            "an utterance of %d frames is too short for minlenratio and is searched without it", len(encoded)
        )
        found = search(x=encoded, maxlenratio=options.maxlenratio, minlenratio=0.0)
    return [_read(hypothesis, len(_primer(model))) for hypothesis in found[: options.nbest]]


class _BatchBeamSearch(BatchBeamSearch):
    """ESPnet's search with all hypotheses scored at once, without keeping the states of ended hypotheses."""

    check: Callable[[], None]

    def search(self, *args: Any, **options: Any) -> Any:
        """Search the next token."""
        self.check()
        return super().search(*args, **options)

    def _select(self, hyps: Any, i: int) -> Hypothesis:
        return super()._select(hyps, i)._replace(states={})


class _BeamSearch(BeamSearch):
    """ESPnet's search with one hypothesis scored at a time, for scorers without batches."""

    check: Callable[[], None]

    def search(self, *args: Any, **options: Any) -> Any:
        """Search the next token."""
        self.check()
        return super().search(*args, **options)


def _build(model: nn.Module, options: Beam, lm: nn.Module | None) -> BeamSearch:
    """Build ESPnet's beam search as its `Speech2Text` does, in batches if all scorers support them."""
    num_tokens = len(model.token_list)
    weights = {
        "decoder": 1.0 - options.ctc_weight,
        "ctc": options.ctc_weight,
        "lm": options.lm_weight,
        "length_bonus": options.length_bonus,
        "no_times": 1.0 if _has_times(model) else 0.0,
    }
    scorers = {
        "decoder": None if model.decoder is None else cached_decoder(model.decoder),
        "ctc": None if model.ctc is None else CTCPrefixScorer(ctc=model.ctc, eos=model.eos),
        "length_bonus": LengthBonus(num_tokens),
        "lm": None if lm is None else cached_lm(lm),
        "no_times": NoTimestamps(num_tokens, model.prompting.times) if _has_times(model) else None,
    }
    used = [scorers[name] for name, weight in weights.items() if weight and name != "ctc"]
    in_batches = all(isinstance(scorer, BatchScorerInterface) for scorer in used)
    search = (_BatchBeamSearch if in_batches else _BeamSearch)(
        scorers=scorers,
        weights=weights,
        beam_size=options.beam_size,
        vocab_size=num_tokens,
        sos=model.sos,
        eos=model.eos,
        pre_beam_score_key=None if options.ctc_weight == 1.0 else "full",
        normalize_length=options.normalize_length,
    )
    search.set_hyp_primer(_primer(model))
    return search.eval()


def _primer(model: nn.Module) -> list[int]:
    """Return the first tokens of every hypothesis: `<sos>`, followed by the prompt of an OWSM model."""
    return [model.sos, *(model.prompting.tokens if _has_times(model) else ())]


def _has_times(model: nn.Module) -> bool:
    """Whether the decoder of a model is prompted for no timestamps, as with OWSM."""
    return model.prompting is not None and model.prompting.has_decoder


def _read(hypothesis: Hypothesis, num_before: int) -> BestPath:
    """Drop the tokens before the text, its end mark, and blanks."""
    tokens = [token for token in hypothesis.yseq[num_before:-1].tolist() if token != _BLANK]
    scores = {name: float(score) for name, score in hypothesis.scores.items()}
    return BestPath(tokens, float(hypothesis.score), scores)
