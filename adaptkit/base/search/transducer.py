"""Greedy and beam search of a transducer through ESPnet's own `BeamSearchTransducer`, per utterance."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from adaptkit import config
from adaptkit.base.classes import TRANSDUCER_SEARCH, import_class
from adaptkit.base.search.paths import BestPath
from adaptkit.search_options import Transducer

_BLANK = 0
_OURS = {"kind", "lm", "lm_weight"}


def search_transducer(
    model: nn.Module, encoded: Tensor, options: Transducer, lm: nn.Module | None, check: Callable[[], None]
) -> list[BestPath]:
    """Find the n best hypotheses of one utterance's encoder output (U, D), best first.

    `check` is called for every step, and may raise to end the search.
    """
    settings = {name: value for name, value in config.dump(options).items() if name not in _OURS}

    def join(*args: Any) -> Tensor:
        check()
        return model.joint_network(*args)

    search = import_class(TRANSDUCER_SEARCH)(
        decoder=model.decoder,
        joint_network=join,
        lm=lm if options.beam_size > 1 else None,
        lm_weight=options.lm_weight,
        **settings,
    )
    found = search(encoded)[: options.nbest]
    return [BestPath([token for token in h.yseq[1:] if token != _BLANK], float(h.score)) for h in found]
