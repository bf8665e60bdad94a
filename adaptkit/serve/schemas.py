"""The responses of the server, as OpenAPI describes them, and refusals with their HTTP status."""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from adaptkit.errors import AdaptkitError


def escape(text: Any) -> Any:
    r"""Escape bytes of a file or task name that are not UTF-8, so that json can hold it.

    >>> escape("caf\udce9.safetensors")
    'caf\\udce9.safetensors'
    """
    return text.encode(errors="backslashreplace").decode() if isinstance(text, str) else text


Text = Annotated[str, BeforeValidator(escape)]


class Refusal(AdaptkitError):
    """An error that is returned as an HTTP status and a message: where, what, and the remedy."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


class Answer(BaseModel):
    """Base class of all responses."""

    model_config = ConfigDict(frozen=True)


class Timings(Answer):
    """The time a request spent in each stage, in milliseconds, and the size of its batch."""

    features_ms: float = Field(description="reading the audio and computing features")
    queue_ms: float = Field(description="waiting for the model")
    route_ms: float = Field(description="choosing Submodels for the requests of the batch that name none")
    load_ms: float = Field(description="loading the Submodels of the batch")
    model_ms: float = Field(description="encoder and search, for the whole batch")
    total_ms: float = Field(
        description="from the arrival of the request, including its body, to the response"
    )
    batch_size: int = Field(description="requests in the batch; 0 if the audio was too short for the model")
    batch_speakers: int = Field(description="distinct Submodels in the batch")


class SubmodelUsed(Answer):
    """The Submodel used for an utterance."""

    task: Text = Field(description="its speaker")
    step: int = Field(description="optimizer steps it was trained for")
    kind: str = Field(description="adapter types in the order they act, joined by +")
    base_fingerprint: str = Field(description="first digits of the fingerprint of its base model")


class Alternative(Answer):
    """One hypothesis of an n-best list."""

    text: str = Field(description="the words")
    score: float = Field(description="its log probability")


class Routed(Answer):
    """How a Submodel was chosen for a request whose speaker is unknown."""

    method: str = Field(description="likelihood of the model's own text per frame, or cosine of embeddings")
    chosen: Text = Field(description="whose Submodel, or (base) for the base model")
    score: float = Field(description="log-likelihood per frame, or cosine")
    runner_up: Text | None = Field(description="the next best; null if there was no other")
    runner_up_score: float | None = Field(description="the score of the next best")


class Recognised(Answer):
    """The transcript, and how it was obtained."""

    text: str = Field(description="the words; empty if there is no speech or the audio is too short")
    score: float = Field(description="log probability of the best path, weighted as the search says")
    nbest: list[Alternative] | None = Field(
        description="n-best list, best first, if the request asks for it with `nbest`"
    )
    speaker: str | None = Field(description="the requested speaker; null if none")
    submodel: SubmodelUsed | None = Field(description="the Submodel used; null for the base model")
    route: Routed | None = Field(description="how it was chosen, if not by the speaker's name; else null")
    audio_sec: float = Field(description="duration of the audio")
    timings: Timings


class Failure(Answer):
    """Why a request was refused."""

    status: int = Field(description="the HTTP status")
    message: Text = Field(description="where, what, and the remedy")


class KnownSubmodel(Answer):
    """A Submodel that requests can name."""

    speaker: Text
    resident: bool = Field(description="whether it is in memory, in the process that answers")


class UnusableFile(Answer):
    """A file in the folder that cannot be used."""

    name: Text = Field(description="the speaker, or the file name if the speaker is unknown")
    reason: Text


class Submodels(Answer):
    """The folder of Submodels as of the last scan of the process that answers."""

    known: list[KnownSubmodel]
    problems: list[UnusableFile]
    num_slots: int = Field(description="Submodels that fit in memory, per process")
    bytes_each: int = Field(description="size of a Submodel in memory, in bytes")


class Health(Answer):
    """The state of the process that answers, one of `--workers`."""

    ready: bool = Field(description="whether the model and the scan for new Submodels are running")
    base_fingerprint: str
    num_known: int = Field(description="Submodels that requests can name")
    queue_length: int = Field(description="requests waiting for the model of this process")
