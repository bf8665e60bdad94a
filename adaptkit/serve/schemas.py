"""What the server answers, as the OpenAPI page describes it, and refusals with their HTTP status."""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from adaptkit.errors import AdaptkitError


def escape(text: Any) -> Any:
    r"""Write what is no UTF-8, in the name of a file or of a task, as json can hold it.

    >>> escape("caf\udce9.safetensors")
    'caf\\udce9.safetensors'
    """
    return text.encode(errors="backslashreplace").decode() if isinstance(text, str) else text


Text = Annotated[str, BeforeValidator(escape)]


class Refusal(AdaptkitError):
    """A request that is answered by an HTTP status and a message: where, what, and what would mend it."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


class Answer(BaseModel):
    """What every answer is: frozen, its fields described."""

    model_config = ConfigDict(frozen=True)


class Timings(Answer):
    """Where the time of a request went, in milliseconds, and the batch it was in."""

    features_ms: float = Field(description="reading the audio and making features of it")
    queue_ms: float = Field(description="waiting for the model")
    load_ms: float = Field(description="bringing the batch's Submodels into memory")
    model_ms: float = Field(description="encoder and search, of the whole batch")
    total_ms: float = Field(description="from the arrival of the request, its body included, to the answer")
    batch_size: int = Field(description="requests that went through the model together; 0 if none had to")
    batch_speakers: int = Field(description="different Submodels among them")


class SubmodelUsed(Answer):
    """The Submodel that an utterance went through."""

    task: Text = Field(description="whose it is")
    step: int = Field(description="optimiser steps behind it")
    kind: str = Field(description="kinds of adapter, joined as they act")
    base_fingerprint: str = Field(description="the first digits of the fingerprint of its base model")


class Recognised(Answer):
    """What was said, and how it was found out."""

    text: str = Field(description="the words; empty where none were said, or the audio is too short for any")
    score: float = Field(description="log probability of the best path")
    speaker: str | None = Field(description="the speaker asked for; null if none")
    submodel: SubmodelUsed | None = Field(description="the Submodel used; null for the base model itself")
    audio_sec: float = Field(description="length of the audio")
    timings: Timings


class Failure(Answer):
    """Why a request was refused."""

    status: int = Field(description="the HTTP status once more")
    message: Text = Field(description="where, what, and what would mend it")


class KnownSubmodel(Answer):
    """A Submodel that requests can name."""

    speaker: Text
    resident: bool = Field(description="whether it is in memory now, in the process that answers")


class UnusableFile(Answer):
    """A file in the folder that cannot be used."""

    name: Text = Field(description="the speaker, or the file where that is unknown")
    reason: Text


class Submodels(Answer):
    """The folder of Submodels as the process that answers last saw it."""

    known: list[KnownSubmodel]
    problems: list[UnusableFile]
    num_slots: int = Field(description="Submodels that a process holds at once")
    bytes_each: int = Field(description="bytes of a Submodel in memory")


class Health(Answer):
    """Whether requests are served by the process that answers, one of `--workers`."""

    ready: bool = Field(description="whether the model takes requests, and new Submodels are looked for")
    base_fingerprint: str
    num_known: int = Field(description="Submodels that requests can name")
    queue_length: int = Field(description="requests that wait for the model of this process")
