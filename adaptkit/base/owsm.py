"""OWSM models (Peng et al., 2023, arXiv:2309.13876), those of `espnet2.tasks.s2t` and s2t_ctc.

The encoder reads speech padded with silence to 30 s. The decoder is prompted: its input begins with `<sos>`
and the tokens for the language, the task and "no timestamps". The configuration also has `model: espnet`,
but as a model of `espnet2.tasks.asr` it would have the wrong `<sos>` and `<eos>`.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import ConfigDict, Field
from torch import Tensor, nn

from adaptkit import config as configuration
from adaptkit.base.classes import OF_OWSM_CTC
from adaptkit.config import Config, PositiveFloat, PositiveInt
from adaptkit.errors import ConfigError, DataError, nearest
from adaptkit.experiment import Prompt

TRANSCRIBE = "asr"  # the task of transcription; among the others, st_deu translates to German
_NO_LANGUAGES = {"<blank>", "<unk>", "<space>", "<nospeech>", "<sop>", "<sos>", "<eos>", "<sos/eos>"}
_TIME = re.compile(r"<\d+(\.\d+)?>", re.ASCII)
_OF_CTC = {  # key of config.yaml: what it is in OWSM-CTC
    "preprocessor": "s2t_ctc",
    "model": "espnet_ctc",
    "encoder": "e_branchformer_ctc",
}


class _Preprocessing(Config):
    """The options used from `preprocessor_conf`, with the defaults of `espnet2.train.preprocessor`."""

    model_config = ConfigDict(extra="ignore")

    fs: PositiveInt = Field(16000, le=10**6)
    speech_length: PositiveFloat = Field(30.0, le=3600)
    na_symbol: str = "<na>"
    notime_symbol: str = "<notimestamps>"
    first_time_symbol: str = "<0.00>"
    last_time_symbol: str = "<30.00>"


@dataclass(frozen=True)
class Prompting:
    """The prompt of an OWSM model and the length of speech it reads; stored as `prompting` of the model."""

    language: str
    task: str
    tokens: tuple[int, ...]  # of the language, the task and, for a decoder, no timestamps
    not_available: int  # the token that replaces an absent previous text, or an absent transcript for CTC
    times: tuple[int, int] | None  # the first and the last token of a timestamp; None for CTC alone
    rate_hz: int
    most_samples: int  # length to which speech is padded

    @property
    def is_transcript(self) -> bool:
        """Whether the text is a transcript, which CTC learns too."""
        return self.task == TRANSCRIBE

    @property
    def most_sec(self) -> float:
        """The duration in seconds to which speech is padded."""
        return self.most_samples / self.rate_hz

    @property
    def has_decoder(self) -> bool:
        """Whether the decoder is prompted; OWSM-CTC is prompted in its encoder."""
        return self.times is not None

    def describe(self) -> str:
        """Return the prompt and the padding, for people."""
        return f"language {self.language}, task {self.task}; speech padded to {self.most_sec:g} s"

    def __str__(self) -> str:
        return f"{self.language}-{self.task}"


def is_owsm(config: Mapping[str, Any]) -> bool:
    """Whether a configuration is of `espnet2.tasks.s2t` or s2t_ctc, by any one of its signs."""
    options = config.get("model_conf") or {}
    tokens = config.get("token_list")
    return (
        is_owsm_ctc(config)
        or config.get("preprocessor") == "s2t"
        or not options.keys().isdisjoint({"sym_na", "sym_sop"})
        or (isinstance(tokens, list) and {"<sop>", "<sos>", "<eos>"} <= set(tokens))
    )


def is_owsm_ctc(config: Mapping[str, Any]) -> bool:
    """Whether a configuration is of `espnet2.tasks.s2t_ctc`, which has no decoder."""
    return config.get("promptencoder") is not None or any(
        config.get(key) == value for key, value in _OF_CTC.items()
    )


def refuse_unusable(config: Mapping[str, Any], where: str) -> None:
    """Refuse an OWSM model that reads features, and OWSM-CTC without its prompt encoder."""
    if is_owsm(config) and config.get("input_size") is not None:
        raise ConfigError(
            f"{where}: input_size: {config['input_size']}: an OWSM model (preprocessor: s2t) that reads "
            "features cannot be given 30 s of speech; use one that reads speech, with input_size: null"
        )
    kind, known = config.get("promptencoder"), OF_OWSM_CTC["promptencoder"]
    if is_owsm_ctc(config) and (kind not in known or not config.get("promptencoder_conf")):
        raise ConfigError(
            f"{where}: a model of espnet2.tasks.s2t_ctc (OWSM-CTC) with promptencoder: {kind}, expected one "
            f"of {', '.join(known)} and its promptencoder_conf; use the config.yaml that ESPnet wrote with it"
        )


def with_prompt(config: Mapping[str, Any], prompt: Prompt | None, where: str) -> Mapping[str, Any]:
    """Return a configuration with another prompt in its section `adaptkit`; None leaves it unchanged."""
    if prompt is None:
        return config
    if not is_owsm(config):
        raise ConfigError(
            f"base.prompt: the model of {where} takes no prompt, as only OWSM models do; remove base.prompt"
        )
    own = {**(config.get("adaptkit") or {}), "prompt": configuration.dump(prompt)}
    return {**config, "adaptkit": own}


def read_prompting(config: Mapping[str, Any], where: str) -> Prompting | None:
    """Return the prompt of a completed configuration with its `token_list`; None if it takes none.

    A language or task that is not a token of the model is a ConfigError that lists those available.
    """
    given = (config.get("adaptkit") or {}).get("prompt")
    if not is_owsm(config):
        with_prompt(config, Prompt() if given else None, where)
        return None
    prompt = configuration.check(Prompt, given or {}, f"{where}: adaptkit.prompt")
    options = configuration.check(
        _Preprocessing, config.get("preprocessor_conf") or {}, f"{where}: preprocessor_conf"
    )
    ids = {token: index for index, token in enumerate(config["token_list"])}
    has_decoder = not is_owsm_ctc(config)
    symbols = [options.na_symbol]
    if has_decoder:
        symbols += [options.notime_symbol, options.first_time_symbol, options.last_time_symbol]
    missing = [symbol for symbol in symbols if symbol not in ids]
    if missing:
        raise ConfigError(
            f"{where}: preprocessor_conf: {', '.join(missing)} not in token_list; use the config.yaml that "
            "ESPnet wrote with the model"
        )
    known = _Known.find(config["token_list"], {*symbols, options.notime_symbol})
    prompt_symbols = [f"<{prompt.language}>", f"<{prompt.task}>", *symbols[1:2]]
    return Prompting(
        language=known.check("language", prompt.language, known.languages),
        task=known.check("task", prompt.task, known.tasks),
        tokens=tuple(ids[symbol] for symbol in prompt_symbols),
        not_available=ids[options.na_symbol],
        times=(ids[symbols[2]], ids[symbols[3]]) if has_decoder else None,
        rate_hz=options.fs,
        most_samples=int(options.fs * options.speech_length),
    )


@dataclass(frozen=True)
class _Known:
    """The languages and tasks among the tokens of a model, without < and >."""

    languages: tuple[str, ...]
    tasks: tuple[str, ...]

    @classmethod
    def find(cls, tokens: Sequence[str], symbols: Collection[str]) -> "_Known":
        """Find the special tokens; the tasks are asr and those that begin with st_."""
        special = [token for token in tokens if is_special(token) and not _TIME.fullmatch(token)]
        names = [token[1:-1] for token in special if token not in _NO_LANGUAGES and token not in symbols]
        tasks = tuple(name for name in names if name == TRANSCRIBE or name.startswith("st_"))
        return cls(tuple(name for name in names if name not in tasks), tasks)

    @staticmethod
    def check(key: str, name: str, known: Sequence[str]) -> str:
        """Return a name; refuse one that is not known."""
        if name not in known:
            near = nearest(name, known).replace("; ", ", ")
            raise ConfigError(
                f"base.prompt.{key}: {name!r} is not a {key} of the model{near}; known: {', '.join(known)}"
            )
        return name


def remedy_of(trained: str, found: str, otherwise: str) -> str:
    """Return the remedy for adapters trained on another base model, given the fingerprints of both.

    >>> remedy_of("3f1c-deu-asr", "3f1c-eng-asr", "use the right one")
    'the prompts differ: set base.prompt to {language: deu, task: asr}, or adaptkit.prompt in config.yaml'
    """
    (model, _, prompt), (other, *_) = trained.partition("-"), found.partition("-")
    if model != other:
        return otherwise
    language, _, task = prompt.rpartition("-")
    described = f"{{language: {language}, task: {task}}}"
    return f"the prompts differ: set base.prompt to {described}, or adaptkit.prompt in config.yaml"


def describe(prompting: Prompting | None, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings other than the prompt that affect an OWSM model's output; none for others."""
    if prompting is None:
        return {}
    return {"most_samples": prompting.most_samples, "prompt": config.get("promptencoder_conf")}


def prepare(model: nn.Module, prompting: Prompting | None) -> nn.Module:
    """Set the prompt of a model (None if it takes none) and return the model.

    From then on, an OWSM model pads its speech, as ESPnet's own inference does.
    """
    model.prompting = prompting
    if prompting is not None:
        model.frontend.register_forward_pre_hook(_Pad(prompting.most_samples, prompting.rate_hz))
        model.use_transducer_decoder = model.use_linear_decoder = False  # attributes of ESPnetASRModel
    return model


@dataclass(frozen=True)
class _Pad:
    """Pad speech (B, N) and its lengths (B,) to `most_samples` with silence, before the frontend."""

    most_samples: int
    rate_hz: int

    def __call__(self, frontend: nn.Module, args: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        speech, lengths = args
        longest = int(lengths.max())
        if longest > self.most_samples:
            raise DataError(
                f"speech of {longest / self.rate_hz:.2f} s: an OWSM model reads at most "
                f"{self.most_samples / self.rate_hz:g} s at once; cut it into shorter segments"
            )
        padded = speech.new_zeros(len(speech), self.most_samples)
        padded[:, : speech.shape[1]] = speech
        beyond = torch.arange(self.most_samples, device=speech.device) >= lengths[:, None]
        return padded.masked_fill(beyond, 0.0), torch.full_like(lengths, self.most_samples)


def own_frames(prompting: Prompting | None, frames: Tensor, num_samples: Tensor) -> Tensor:
    """Return the frames (B,) of the speech itself, where `frames` (B,) include padding to 30 s."""
    if prompting is None:
        return frames
    return 1 + (frames - 1) * num_samples // prompting.most_samples


def targets(
    prompting: Prompting | None, tokens: Tensor, token_lengths: Tensor
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Return the targets of the decoder and of CTC for tokens (B, L), padded with -1, with lengths (B,).

    Each target is tokens and lengths. The decoder of an OWSM model is prompted and learns no previous text,
    whose tokens and lengths follow; its CTC learns the transcript, which is not available for a task other
    than transcription. In OWSM-CTC, both texts, each learned by some blocks, begin with the prompt.
    """
    transcript = tokens.clone(), token_lengths.clone()  # ESPnet modifies both in place
    if prompting is None:
        return (tokens.clone(), token_lengths.clone()), transcript
    rows = len(tokens)
    prompt = tokens.new_tensor(prompting.tokens).expand(rows, -1)
    nothing = tokens.new_full((rows, 1), prompting.not_available), torch.ones_like(token_lengths)
    text = torch.cat([prompt, tokens], dim=1), token_lengths + len(prompting.tokens)
    if not prompting.has_decoder:
        transcript = text
    return (*text, *nothing), transcript if prompting.is_transcript else nothing


def is_special(token: str) -> bool:
    """Whether a token marks a language, task, time or the like, and is not part of a text.

    >>> is_special("<asr>"), is_special("eng")
    (True, False)
    """
    return token.startswith("<") and token.endswith(">")
