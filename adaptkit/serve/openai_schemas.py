"""The requests and responses of OpenAI's API for transcription, as far as this server has them."""

from typing import Any, Literal

from pydantic import Field

from adaptkit.serve.schemas import Answer, Refusal, Text

BASE = "base"  # the model that is the base model alone
FORMATS = ("json", "text", "srt", "verbose_json", "vtt")
GRANULARITIES = "timestamp_granularities[]"
MODEL = {"id": "bob", "object": "model", "created": 1764300000, "owned_by": "adaptkit"}
TRANSCRIPTION = {"text": "turn the lights on", "usage": {"type": "duration", "seconds": 2.31}}
VERBOSE = {
    **TRANSCRIPTION,
    "task": "transcribe",
    "language": "en",
    "duration": 2.31,
    "segments": [
        {
            "id": 0,
            "seek": 0,
            "start": 0.0,
            "end": 2.31,
            "text": "turn the lights on",
            "tokens": [17, 4, 98, 23],
            "temperature": 0.0,
            "avg_logprob": -0.9304,
            "compression_ratio": 0.69,
            "no_speech_prob": None,
        }
    ],
    "words": [{"word": "turn", "start": 0.32, "end": 0.48}],
}
SUBTITLES = "1\n00:00:00,320 --> 00:00:01,960\nturn the lights on\n"


class Misuse(Refusal):
    """A refusal that names the parameter, and the code by which OpenAI's clients know it."""

    def __init__(self, status: int, message: str, param: str, code: str | None = None):
        super().__init__(status, message)
        self.param, self.code = param, code


class Problem(Answer):
    """Why a request was refused."""

    message: Text = Field(description="where, what, and the remedy")
    type: str = Field(description="invalid_request_error, or server_error")
    param: str | None = Field(description="the parameter that is wrong, if it is one")
    code: str | None = Field(description="model_not_found, if it is that")


class Failed(Answer):
    """An error as OpenAI's clients expect it."""

    error: Problem


class Model(Answer):
    """A speaker with a Submodel, or the base model."""

    id: Text = Field(description="the speaker, or `base`")
    object: Literal["model"] = Field(description="always model")
    created: int = Field(description="when its file was written, in seconds since 1970")
    owned_by: str = Field(description="always adaptkit")


class Models(Answer):
    """What requests can name as their model."""

    object: Literal["list"] = Field(description="always list")
    data: list[Model] = Field(description="the base model, and the speakers")


class Usage(Answer):
    """What a request is counted by."""

    type: Literal["duration"] = Field(description="always duration")
    seconds: float = Field(description="duration of the audio")


class Segment(Answer):
    """What was recognised in one piece, which is the whole audio."""

    id: int = Field(description="its number, from 0")
    seek: int = Field(description="always 0")
    start: float = Field(description="in seconds")
    end: float = Field(description="in seconds")
    text: str = Field(description="the words")
    tokens: list[int] = Field(description="token ids of the base model")
    temperature: float = Field(description="always 0: nothing is sampled")
    avg_logprob: float = Field(description="the score divided by the number of tokens")
    compression_ratio: float = Field(description="bytes of the text by bytes of the same text compressed")
    no_speech_prob: float | None = Field(description="always null: the model does not estimate it")


class TimedWord(Answer):
    """A word and its times."""

    word: str = Field(description="the word")
    start: float = Field(description="in seconds, to about 0.1 s")
    end: float = Field(description="in seconds, to about 0.1 s")


class Transcription(Answer):
    """The text of an audio file; with `verbose_json`, also its segments or words."""

    text: str = Field(description="the words; empty if there is no speech or the audio is too short")
    usage: Usage
    task: str | None = Field(None, description="always transcribe")
    language: str | None = Field(
        None, description="as the request names it; und (undetermined) if it does not"
    )
    duration: float | None = Field(None, description="duration of the audio in seconds")
    segments: list[Segment] | None = Field(None, description="unless only words are asked for")
    words: list[TimedWord] | None = Field(None, description=f"if `{GRANULARITIES}` has `word`")


def failure(status: int, why: str | Refusal) -> dict[str, Any]:
    """Return the body of an error response."""
    kind = "server_error" if status >= 500 else "invalid_request_error"
    param, code = (why.param, why.code) if isinstance(why, Misuse) else (None, None)
    return Failed(error=Problem(message=str(why), type=kind, param=param, code=code)).model_dump()


_FIELDS: dict[str, dict[str, Any]] = {
    "file": {
        "type": "string",
        "format": "binary",
        "description": "a single-channel audio file, as for /v1/recognize",
    },
    "model": {
        "type": "string",
        "description": "the speaker whose Submodel to use, as listed by `GET /v1/models`; `base` for the "
        "base model alone. One without a Submodel is treated as by /v1/recognize.",
    },
    "response_format": {"type": "string", "enum": list(FORMATS), "default": "json"},
    GRANULARITIES: {
        "type": "array",
        "items": {"type": "string", "enum": ["word", "segment"]},
        "default": ["segment"],
        "description": "with `verbose_json` only",
    },
    "language": {"type": "string", "description": "has no effect: models know their language"},
    "temperature": {"type": "number", "enum": [0], "default": 0, "description": "only 0: nothing is sampled"},
    "prompt": {"type": "string", "description": "only empty: models read no prompts"},
    "stream": {"type": "boolean", "enum": [False], "default": False},
    "chunking_strategy": {"type": "string", "enum": ["auto"], "description": "has no effect"},
}
FORM = {
    "requestBody": {
        "required": True,
        "description": "A form with an audio file, as OpenAI's clients send it.",
        "content": {
            "multipart/form-data": {
                "schema": {"type": "object", "required": ["file", "model"], "properties": _FIELDS}
            }
        },
    }
}
