"""ESPnet's own recogniser (`espnet2.bin.asr_inference.Speech2Text`), to compare ours with.

Only `adaptkit bench decode` and the tests use it.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adaptkit.base import checkpoint, transducer
from adaptkit.base.checkpoint import BaseModel
from adaptkit.base.classes import import_unchecked
from adaptkit.base.search.lm import PREFIX, LanguageModel
from adaptkit.base.search.paths import BestPath
from adaptkit.folders import RunFolder
from adaptkit.search_options import Beam, Greedy, SearchOptions, Transducer

_SPEECH2TEXT = "espnet2.bin.asr_inference.Speech2Text"
_NO_TEXT = {"token_type": None, "bpemodel": None}  # only tokens are compared
_TRANSDUCER = ("search_type", "score_norm", "score_norm_during", "nbest")  # options of all search types
_OF_TYPE = {  # further options of some types
    "tsd": ("max_sym_exp",),
    "alsd": ("u_max",),
    "nsc": ("nstep", "prefix_alpha"),
    "maes": ("nstep", "prefix_alpha", "expansion_gamma", "expansion_beta"),
}


class Reference:
    """`Speech2Text` with the weights of a base model as stored, and the settings of a search."""

    def __init__(self, base: BaseModel, options: SearchOptions, lm: LanguageModel | None, folder: Path):
        """Write the model to an empty folder, from which ESPnet reads it.

        For CTC alone, Speech2Text has only prefix search. With a beam of 1 it stands in for greedy search,
        but may find other words where several alignments of one text share the probability.
        """
        weights = base.model.state_dict()
        described = checkpoint.with_statistics(base.config, weights, base.files, folder)
        files = _write(folder, "asr_train_config", {**described, **_NO_TEXT, "specaug": None}, weights)
        if lm is not None:
            own = {f"{PREFIX}{name}": weight for name, weight in lm.module.state_dict().items()}
            files |= _write(folder / "lm", "lm_train_config", {**lm.config, **_NO_TEXT}, own)
        device = str(next(base.model.parameters()).device)
        with _quiet(), transducer.importable():
            self._speech2text = import_unchecked(_SPEECH2TEXT)(**files, device=device, **_settings(options))

    def find(self, inputs: Tensor) -> list[BestPath]:
        """Return the n best hypotheses of one utterance, speech (N,) or features (T, F), the best first."""
        with _quiet():
            found = self._speech2text(inputs.clone())  # ESPnet normalises it in place
        found = found[0] if isinstance(found, tuple) else found  # with intermediate CTC
        return [BestPath(list(tokens), float(hypothesis.score)) for _, _, tokens, hypothesis in found]


def _write(
    folder: Path, argument: str, config: Mapping[str, Any], weights: Mapping[str, Tensor]
) -> dict[str, Path]:
    """Write a model; return the arguments of Speech2Text for its files."""
    folder.mkdir(exist_ok=True)
    checkpoint.save(folder, config, weights)
    model = {"asr_train_config": "asr_model_file", "lm_train_config": "lm_file"}[argument]
    return {argument: RunFolder(folder).config, model: RunFolder(folder).model}


def _settings(options: SearchOptions) -> dict[str, Any]:
    """Return the arguments of Speech2Text for a search."""
    if isinstance(options, Greedy):
        return {"beam_size": 1, "ctc_weight": 1.0}
    shared = {"beam_size": options.beam_size, "lm_weight": options.lm_weight, "nbest": options.nbest}
    if isinstance(options, Beam):
        names = ("ctc_weight", "maxlenratio", "minlenratio", "normalize_length")
        return {**shared, "penalty": options.length_bonus, **{name: getattr(options, name) for name in names}}
    return {**shared, "transducer_conf": _transducer_conf(options)}


def _transducer_conf(options: Transducer) -> dict[str, Any]:
    names = (*_TRANSDUCER, *_OF_TYPE.get(options.search_type, ()))
    return {name: getattr(options, name) for name in names}


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence ESPnet's messages about every utterance."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with torch.no_grad():
            yield
    finally:
        logging.disable(before)
