"""A search with all its options, ready to be run on the encoder outputs of a model."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from adaptkit.base.search.align import align
from adaptkit.base.search.beam import search_beam
from adaptkit.base.search.greedy import greedy
from adaptkit.base.search.lm import LanguageModel
from adaptkit.base.search.paths import BestPath
from adaptkit.base.search.transducer import search_transducer
from adaptkit.search_options import Greedy, SearchOptions

_BY_ROW: dict[str, Callable[..., list[BestPath]]] = {"beam": search_beam, "transducer": search_transducer}


class _Unwanted(Exception):
    """Raised to end the search of a row that is no longer wanted."""


@dataclass(frozen=True)
class Searcher:
    """A search, its language model and why it was chosen; made by `choose.new_searcher`.

    `with_times` aligns the best hypothesis of each row, or of these rows of a batch, with CTC, unless the
    model has none or is prompted.
    """

    options: SearchOptions = Greedy()
    lm: LanguageModel | None = None
    reason: str = ""
    with_times: bool | frozenset[int] = False

    @property
    def nbest(self) -> int:
        """The largest number of hypotheses returned per utterance."""
        return 1 if isinstance(self.options, Greedy) else self.options.nbest

    def find(
        self,
        model: nn.Module,
        encoded: Tensor,
        frames: Tensor,
        rows: Sequence[int],
        is_wanted: Callable[[int], bool] | None = None,
    ) -> Iterator[tuple[int, list[BestPath]]]:
        """Yield each of `rows` with its n-best hypotheses, best first; encoded (B, U, D), frames (B,).

        Each row is searched up to its own number of frames, so that results do not depend on the batch.
        `is_wanted` is called again for every token, and rows no longer wanted are left out.
        """
        for row, paths in self._find(model, encoded, frames, rows, is_wanted):
            is_timed = self.with_times if isinstance(self.with_times, bool) else row in self.with_times
            yield row, self._timed(model, encoded[row, : int(frames[row])], paths) if is_timed else paths

    def _timed(self, model: nn.Module, encoded: Tensor, paths: list[BestPath]) -> list[BestPath]:
        """Set the frames of the tokens of the best path, given the row's encoder output (U, D)."""
        if model.ctc is None or model.prompting is not None or not len(encoded):
            return paths
        best, *others = paths
        return [replace(best, spans=align(model.ctc.log_softmax(encoded[None])[0], best.tokens)), *others]

    def _find(
        self,
        model: nn.Module,
        encoded: Tensor,
        frames: Tensor,
        rows: Sequence[int],
        is_wanted: Callable[[int], bool] | None,
    ) -> Iterator[tuple[int, list[BestPath]]]:
        if isinstance(self.options, Greedy):  # on the whole batch, since the exact bits depend on its size
            paths = greedy(model, encoded, frames)
            yield from ((row, [paths[row]]) for row in rows)
            return
        for row in rows:
            try:
                yield row, self._find_row(model, encoded[row, : int(frames[row])], row, is_wanted)
            except _Unwanted:
                continue

    def _find_row(
        self, model: nn.Module, encoded: Tensor, row: int, is_wanted: Callable[[int], bool] | None
    ) -> list[BestPath]:
        def check() -> None:
            if is_wanted is not None and not is_wanted(row):
                raise _Unwanted

        check()
        if not len(encoded):
            return [BestPath([], 0.0)]
        module: Any = None if self.lm is None else self.lm.module
        return _BY_ROW[self.options.kind](model, encoded, self.options, module, check)
