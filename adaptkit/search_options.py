"""Search settings: by name in `conf/decode`, by path or written out.

Options have ESPnet's names (espnet2.bin.asr_inference), except `length_bonus`, which is its `penalty`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from adaptkit import config
from adaptkit.config import Config, FilePath, NonNegativeFloat, PositiveFloat, PositiveInt, Share
from adaptkit.errors import ConfigError, listed, nearest

AUTO = "auto"
BeamSize = Annotated[PositiveInt, Field(le=1000)]
Ratio = Annotated[float, Field(strict=True, ge=-10_000, le=10)]
_LM_WEIGHT = Field(0.0, description="weight of the language model (shallow fusion); 0: none")
_LM = Field(
    None, description="folder of the language model, with config.yaml and a .pth; null: the base's own"
)
_NBEST = Field(1, description="hypotheses per utterance, best first")


class Greedy(Config):
    """The best path of a CTC, frame by frame; or with `transducer` and a beam of 1, of a transducer."""

    kind: Literal["greedy"] = "greedy"


class Beam(Config):
    """Joint CTC/attention beam search (Watanabe et al., 2017), with a language model by shallow fusion."""

    kind: Literal["beam"] = "beam"
    beam_size: BeamSize = Field(10, description="beam size")
    ctc_weight: Share = Field(
        0.3, description="weight of CTC, the rest is the decoder's; 1: CTC prefix search, 0: attention only"
    )
    lm_weight: NonNegativeFloat = _LM_WEIGHT
    lm: FilePath | None = _LM
    length_bonus: Annotated[float, Field(strict=True, ge=-1e4, le=1e4)] = Field(
        0.0, description="added for every token; ESPnet's penalty"
    )
    maxlenratio: Ratio = Field(
        0.0,
        description="most tokens per encoder frame; 0: as many, ended early where longer hypotheses only get "
        "worse; below 0: a number of tokens",
    )
    minlenratio: Ratio = Field(
        0.0, description="fewest tokens per encoder frame; below 0: a number of tokens"
    )
    normalize_length: bool = Field(False, description="rank ended hypotheses by score per token")
    nbest: BeamSize = _NBEST

    @field_validator("maxlenratio", "minlenratio")
    @classmethod
    def _be_a_number_of_tokens(cls, ratio: float) -> float:
        if -1 < ratio < 0:
            raise ValueError("expected 0 or more, or a number of tokens as -1, -2 and so on")
        return ratio

    @model_validator(mode="after")
    def _leave_room(self) -> "Beam":
        """Refuse a minimum above the maximum, which no hypothesis reaches."""
        most, fewest = self.maxlenratio or 1.0, self.minlenratio
        if most * fewest > 0 and abs(fewest) > abs(most):
            shown = f"{self.maxlenratio:g}" + (
                ", at most one token per frame" if not self.maxlenratio else ""
            )
            raise ValueError(f"minlenratio {fewest:g} is above maxlenratio {shown}; lower it")
        return self


class Transducer(Config):
    """Beam search of a transducer, by ESPnet's BeamSearchTransducer; a beam of 1 is greedy."""

    kind: Literal["transducer"] = "transducer"
    beam_size: BeamSize = Field(10, description="beam size; 1: greedy")
    search_type: Literal["default", "tsd", "alsd", "nsc", "maes"] = Field(
        "default",
        description="default (Graves, 2012); time- or alignment-length-synchronous; N-step constrained; "
        "modified adaptive expansion",
    )
    max_sym_exp: BeamSize = Field(2, description="tsd: most tokens per frame")
    u_max: PositiveInt = Field(50, description="alsd: most tokens of a hypothesis")
    nstep: BeamSize = Field(1, description="nsc, maes: most tokens per frame; maes uses at least 2")
    prefix_alpha: PositiveInt = Field(1, description="nsc, maes: longest difference of merged prefixes")
    expansion_gamma: PositiveFloat = Field(2.3, description="maes: largest difference of log probability")
    expansion_beta: Annotated[int, Field(strict=True, ge=0, le=1000)] = Field(
        2, description="maes: candidates beyond the beam"
    )
    score_norm: bool = Field(True, description="rank hypotheses by score per token at the end")
    score_norm_during: bool = Field(False, description="default, tsd, alsd: also during the search")
    lm_weight: NonNegativeFloat = _LM_WEIGHT
    lm: FilePath | None = _LM
    nbest: BeamSize = _NBEST

    @model_validator(mode="after")
    def _be_greedy_alone(self) -> "Transducer":
        """Refuse what ESPnet ignores in greedy search."""
        if self.beam_size == 1 and self.nbest > 1:
            raise ValueError(f"nbest {self.nbest} with a beam of 1, which finds one; raise beam_size")
        if self.beam_size == 1 and self.lm_weight:
            raise ValueError(f"lm_weight {self.lm_weight:g} with a beam of 1, which uses no language model")
        return self


SearchOptions = Greedy | Beam | Transducer
KINDS: dict[str, type[Config]] = {"greedy": Greedy, "beam": Beam, "transducer": Transducer}


def _read_any(content: object) -> object:
    """Validate a search that is written out in a yaml by its `kind`; its problems keep their full keys."""
    if content == AUTO or isinstance(content, SearchOptions):
        return content
    if not isinstance(content, Mapping):
        raise ValueError("expected a search (kind: greedy, beam or transducer), the name of one, or auto")
    return _find_kind(content).model_validate(content)


def _find_kind(content: Mapping[str, Any]) -> type[Config]:
    kind = content.get("kind")
    if kind is None:
        raise ValueError(f"kind: missing; one of {', '.join(KINDS)}")
    if not isinstance(kind, str) or kind not in KINDS:
        known = nearest(str(kind), KINDS) or f"; known: {', '.join(KINDS)}"
        raise ValueError(f"kind: no search is called {kind!r}{known}")
    return KINDS[kind]


AnySearch = Annotated[SearchOptions | Literal["auto"], BeforeValidator(_read_any)]


@dataclass(frozen=True)
class SearchRequest:
    """The search that a user asks for, to be resolved for a model (`base.search.choose`)."""

    search: SearchOptions | Literal["auto"] | None = None  # None: the experiment's, or auto
    changes: tuple[str, ...] = ()  # of its options, as in beam_size=20
    lm: Path | None = None  # folder or .pth of a language model
    nbest: int | None = None


def read_search(word: str | Path | Mapping[str, Any]) -> SearchOptions | Literal["auto"]:
    """Read a search by its name in `conf/decode` (see `config.find_published`), its path, or a mapping."""
    if word == AUTO:
        return AUTO
    if isinstance(word, Mapping):
        return _check(word, "search")
    path = config.find_published("decode", word)
    return _check(config.read_yaml(path), str(path))


def change_search(options: SearchOptions, words: Sequence[str]) -> SearchOptions:
    """Return a search with some of its options changed, as in beam_size=20."""
    content = config.dump(options)
    for word in words:
        config.apply(content, word, option="--search-set")
    return _check(content, f"--search-set {listed(words)}") if words else options


def _check(content: Mapping[str, Any], where: str) -> SearchOptions:
    try:
        kind = _find_kind(content)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from error
    return config.check(kind, content, where)
