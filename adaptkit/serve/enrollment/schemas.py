"""The responses about speakers, as OpenAPI describes them."""

from typing import Literal

from pydantic import Field

from adaptkit.serve.schemas import Answer, Text


class Prompt(Answer):
    """A sentence to be read aloud."""

    id: str
    text: str


class Prompts(Answer):
    """The sentences to be read aloud."""

    prompts: list[Prompt]


class Recording(Answer):
    """A recording that is kept."""

    id: str
    prompt: str | None = Field(description="the prompt that was read; null if it was none")
    text: str = Field(description="the words, as the model writes them")
    audio_sec: float = Field(description="duration of the audio")
    kind: Literal["prompt", "correction"] = Field(
        description="correction: an utterance whose transcript was corrected"
    )


class Job(Answer):
    """The latest enrollment of a speaker."""

    state: Literal["queued", "running", "installed", "not_better", "failed", "cancelled"] = Field(
        description="installed: the trained Submodel is in use; not_better: it was no better than the start "
        "on the recordings held out, and nothing has changed"
    )
    position: int | None = Field(description="place in the queue, from 1; null unless queued")
    progress: float = Field(description="from 0 to 1")
    seconds: float = Field(description="since it began to run")
    message: str = Field(description="what came of it, and what to do about it")
    wer_start: float | None = Field(
        description="WER in percent on the recordings held out, of what has served the speaker before"
    )
    wer_new: float | None = Field(
        description="the same of the trained Submodel; if both are equal, the loss decides"
    )
    num_train: int | None = Field(description="recordings trained on")
    num_valid: int | None = Field(description="recordings held out to compare on")


class Speaker(Answer):
    """A speaker with all recordings."""

    speaker: Text
    has_submodel: bool = Field(description="whether there is a Submodel of this name")
    audio_sec: float = Field(description="duration of all recordings")
    recordings: list[Recording] = Field(description="in the order of their arrival")
    job: Job | None = Field(description="the latest enrollment; null if there was none")


class Speakers(Answer):
    """The speakers that have been made on this server."""

    speakers: list[Speaker]
