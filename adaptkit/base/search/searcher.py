"""A search with all its options, ready to be run on the encoder outputs of a model."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from adaptkit.base.search.beam import search_beam
from adaptkit.base.search.greedy import greedy
from adaptkit.base.search.lm import LanguageModel
from adaptkit.base.search.paths import BestPath
from adaptkit.base.search.transducer import search_transducer
from adaptkit.search_options import Greedy, SearchOptions

_BY_ROW: dict[str, Callable[..., list[BestPath]]] = {"beam": search_beam, "transducer": search_transducer}


@dataclass(frozen=True)
class Searcher:
    """A search, its language model and why it was chosen; made by `choose.new_searcher`."""

    options: SearchOptions = Greedy()
    lm: LanguageModel | None = None
    reason: str = ""

    def find(
        self, model: nn.Module, encoded: Tensor, frames: Tensor, rows: Sequence[int]
    ) -> Iterator[tuple[int, list[BestPath]]]:
        """Yield each of `rows` with its n best hypotheses, the best first; encoded (B, U, D), frames (B,).

        Each row is searched up to its own number of frames, so that results do not depend on the batch.
        """
        if self.options.kind == "greedy":  # of the whole batch, since the exact bits depend on its size
            paths = greedy(model, encoded, frames)
            yield from ((row, [paths[row]]) for row in rows)
            return
        for row in rows:
            yield row, self._find_row(model, encoded[row, : int(frames[row])])

    def _find_row(self, model: nn.Module, encoded: Tensor) -> list[BestPath]:
        if not len(encoded):
            return [BestPath([], 0.0)]
        module: Any = None if self.lm is None else self.lm.module
        return _BY_ROW[self.options.kind](model, encoded, self.options, module)
