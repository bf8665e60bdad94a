"""Apply the settings of ESPnet's preprocessor to speech and texts, or refuse them with a reason.

They follow `CommonPreprocessor` of espnet2/train/preprocessor.py in ESPnet 202511. Its noise, reverberation
and effects apply only to training; adaptkit has its own augmentation.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from adaptkit.base.archive import ModelFiles
from adaptkit.base.owsm import is_owsm
from adaptkit.errors import CheckpointError, listed, nearest
from adaptkit.files import read_text, require_regular, split_lines
from adaptkit.tokens import SPACE, UNK, Spelling

KEYS = frozenset(  # keys of config.yaml
    ("use_preprocessor", "preprocessor", "preprocessor_conf", "non_linguistic_symbols", "cleaner", "g2p")
    + ("speech_volume_normalize", "use_lang_prompt", "use_nlp_prompt")
)
_PREPROCESSORS = ("default", "s2t", "s2t_ctc")
_UNITS = ("char", "word", "bpe")
_UNFIT = {
    "phn": "its tokens are phonemes, which cannot be converted back to texts",
    "hugging_face": "its tokens are those of a model that the package transformers downloads",
    "whisper": "its tokens are those of the package openai-whisper",
    "qwen2audio": "its tokens are those of a model that the package transformers downloads",
}
_OF_TRAINING = ("rir_scp", "rir_apply_prob", "noise_scp", "noise_apply_prob", "noise_db_range")
_OF_TRAINING += ("short_noise_thres", "data_aug_effects", "data_aug_num", "data_aug_prob", "min_sample_size")
_OF_TRAINING += ("audio_pad_value", "fs", "speech_name", "text_name", "aux_task_names")
_OF_TRAINING += (
    "force_single_channel",
    "whisper_language",
    "whisper_task",
)  # options without effect here
_FOLLOWED = ("speech_volume_normalize", "space_symbol", "unk_symbol", "delimiter", "nonsplit_symbol")
_CLEANERS = {  # cleaner: the package it needs
    "tacotron": "espnet-tts-frontend",
    "jaconv": "jaconv",
    "vietnamese": "underthesea",
    "korean_cleaner": "espnet",
    "whisper_en": "openai-whisper",
    "whisper_basic": "openai-whisper",
}


@dataclass(frozen=True)
class Cleaner:
    """ESPnet's text cleaners, applied in order and imported for the first text."""

    names: tuple[str, ...]

    def __call__(self, text: str) -> str:
        """Clean a text, as is done with references before training."""
        return _load_cleaner(self.names)(text)


@functools.cache
def _load_cleaner(names: tuple[str, ...]) -> Callable[[str], str]:
    try:
        from espnet2.text.cleaner import TextCleaner  # 5 s

        cleaner = TextCleaner(list(names))
        cleaner("a")
    except (ImportError, RuntimeError) as error:
        needed = listed(sorted({_CLEANERS[name] for name in names}))
        raise CheckpointError(
            f"cleaner {', '.join(names)}: {error}; install {needed}, without which texts cannot be prepared "
            "for training this model; decoding does not need it"
        ) from error
    return cleaner


@dataclass(frozen=True)
class Preprocessor:
    """The processing of speech and texts before they reach the model."""

    peak: float | None = None  # peak to which speech is scaled
    spelling: Spelling = Spelling()
    name: str = "default"

    def scale(self, speech: Tensor) -> Tensor:
        """Scale speech (N,) to the model's peak; silence stays unchanged.

        >>> import torch
        >>> Preprocessor(peak=0.5).scale(torch.tensor([0.1, -0.2]))
        tensor([ 0.2500, -0.5000])
        """
        if self.peak is None or not len(speech):
            return speech
        largest = speech.abs().max()
        return speech if largest == 0 else speech * self.peak / largest

    def describe(self) -> dict[str, Any]:
        """Return settings of inputs and texts other than ESPnet's defaults, for people and fingerprints."""
        rules = self.spelling
        found = {
            "preprocessor": None if self.name == "default" else self.name,
            "speech_volume_normalize": self.peak,
            "non_linguistic_symbols": list(rules.symbols),
            "space_symbol": None if rules.space == SPACE else rules.space,
            "unk_symbol": None if rules.unknown == UNK else rules.unknown,
            "delimiter": rules.delimiter,
            "cleaner": list(rules.clean.names) if isinstance(rules.clean, Cleaner) else None,
        }
        return {name: value for name, value in found.items() if value}


def read(config: Mapping[str, Any], files: ModelFiles) -> Preprocessor:
    """Read the preprocessor of a model's configuration; settings not supported are a CheckpointError."""
    name, options = config.get("preprocessor") or "default", dict(config.get("preprocessor_conf") or {})
    _refuse_unfit(config, name, options, files)
    volume = options.get("speech_volume_normalize", config.get("speech_volume_normalize"))
    names = _names(config.get("cleaner"))
    return Preprocessor(
        peak=volume if config.get("use_preprocessor", True) else None,
        name=name,
        spelling=Spelling(
            unit=config.get("token_type"),
            symbols=_read_symbols(config, options, files),
            space=options.get("space_symbol") or SPACE,
            unknown=options.get("unk_symbol") or UNK,
            delimiter=options.get("delimiter"),
            clean=Cleaner(names) if names else None,
            has_marks=is_owsm(config),
        ),
    )


def _refuse_unfit(
    config: Mapping[str, Any], name: str, options: Mapping[str, Any], files: ModelFiles
) -> None:
    """Refuse all unsupported settings in one message."""
    problems = [*_find_unfit_texts(config, options), *_find_unfit_options(config, name, options)]
    if problems:
        raise CheckpointError("\n".join(f"{files.config}: {problem}" for problem in problems))


def _find_unfit_texts(config: Mapping[str, Any], options: Mapping[str, Any]) -> Iterator[str]:
    unit = config.get("token_type")
    if unit is not None and unit not in _UNITS:
        reason = next((why for word, why in _UNFIT.items() if unit.startswith(word)), "unknown to adaptkit")
        yield f"token_type: {unit}: {reason}; use a model of characters, words or BPE"
    for cleaner in _names(config.get("cleaner")):
        if cleaner not in _CLEANERS:
            yield f"cleaner: {cleaner}: unknown; ESPnet has {listed(_CLEANERS)}"
    unknown = options.get("unk_symbol")
    if unknown is not None and unknown not in config["token_list"]:
        yield f"preprocessor_conf.unk_symbol: {unknown}: not in the token list"


def _find_unfit_options(config: Mapping[str, Any], name: str, options: Mapping[str, Any]) -> Iterator[str]:
    if name not in _PREPROCESSORS:
        yield f"preprocessor: {name}: not supported; adaptkit supports {listed(_PREPROCESSORS)}"
    known = (*_FOLLOWED, *_OF_TRAINING)
    for option in sorted(set(options) - set(known)) if name == "default" else ():
        yield f"preprocessor_conf.{option}: ESPnet has no such option{nearest(option, known)}"
    for prompt in ("use_lang_prompt", "use_nlp_prompt"):
        if config.get(prompt):
            yield f"{prompt}: a prompt of Whisper's tokens, which adaptkit does not read"


def _names(cleaners: Any) -> tuple[str, ...]:
    return (cleaners,) if isinstance(cleaners, str) else tuple(cleaners or ())


def _read_symbols(
    config: Mapping[str, Any], options: Mapping[str, Any], files: ModelFiles
) -> tuple[str, ...]:
    """Return the symbols that must not be split and that the token list does not contain.

    Releases often lack the file that the configuration names, but the token list holds its symbols.
    """
    given = config.get("non_linguistic_symbols") or ()
    if isinstance(given, str):
        path = files.find(given)
        given = ()
        if path is not None:
            require_regular(path)
            given = [line.rstrip() for line in split_lines(read_text(path))]
    kept = [symbol.split(":")[0] for symbol in options.get("nonsplit_symbol") or ()]
    if config.get("token_type") != "char":
        return ()
    return tuple(sorted({*given, *kept} - set(config["token_list"]) - {""}))
