"""What is asked of a recording and its text before they are kept; refusals say what a person can do."""

from pathlib import Path

import torch
from torch import Tensor

from adaptkit.base.checkpoint import BaseModel
from adaptkit.characters import split_words
from adaptkit.data.dataset import BASE_TASK, Examples, frames_of
from adaptkit.data.short import find_short
from adaptkit.errors import DataError, listed
from adaptkit.files import held_in_memory
from adaptkit.kaldi.audio import probe, read_audio
from adaptkit.kaldi.datadir import DataDir, Utterance
from adaptkit.serve.audio import Speech, read_speech
from adaptkit.serve.schemas import Refusal

_LEAST_SEC = 0.3
_BLOCK_SEC = 0.05
_QUIETEST = 0.003  # RMS of the loudest block, -50 dB of full scale; speech at an arm's length has -30
_FULL = 0.985  # of full scale: what clipped samples reach
_MOST_CLIPPED = 0.005  # fraction of the samples; of speech scaled to full scale, 0.0005
_LONGEST_TEXT = 1000  # characters


def read_spoken(body: bytes, *, rate_hz: int, most_sec: float) -> Speech:
    """Read an audio file as `read_speech` does; refuse what is too short, almost silent or overdriven."""
    speech = read_speech(body, rate_hz=rate_hz, most_sec=most_sec)
    if speech.duration_sec < _LEAST_SEC:
        raise Refusal(
            422,
            f"the recording lasts {speech.duration_sec:.2f} s, too short for speech; wait for the recording "
            "to begin, speak, and stop it after the last word",
        )
    if _loudest(speech.samples, rate_hz) < _QUIETEST:
        raise Refusal(
            422,
            "the recording is almost silent; check that the right microphone is chosen and not muted, and "
            "speak closer to it",
        )
    if _clipped(_as_recorded(body)) > _MOST_CLIPPED:
        raise Refusal(
            422,
            "the recording is overdriven: its loudest parts are cut off; move away from the microphone, or "
            "lower its level, and record it again",
        )
    return speech


def fit_text(text: str, base: BaseModel, *, what: str = "text") -> str:
    """Return a text that a person has typed as the base model writes it (`TokenList.respell`).

    A text without words is refused, and one with anything spoken that the model cannot write, such as digits:
    only the person knows which words were said.
    """
    words = " ".join(split_words(text))
    if not words or len(words) > _LONGEST_TEXT:
        raise Refusal(
            422, f"{what}: {len(words)} characters; send the words that were spoken, at most {_LONGEST_TEXT}"
        )
    fitted = base.tokens.respell(words)
    if not fitted:
        raise Refusal(422, f"{what}: there are no words in it; send the words that were spoken")
    if unknown := base.tokens.unknown_in(fitted):
        remedy = "spell numbers and signs out as they are spoken"
        raise Refusal(422, f"{what}: the model cannot write {listed(unknown)}; {remedy}")
    return fitted


def refuse_hasty(speech: Speech, text: str, base: BaseModel) -> None:
    """Refuse a text that has more tokens than the encoder has frames for the recording."""
    (frames,) = frames_of(base, [len(speech.samples)])
    data = DataDir(Path("recording"), [Utterance("one", "one", "one", text)], {"one": ""})
    if find_short(Examples(data, base, (frames,), {"one": BASE_TASK}), [base.padded_frames or frames]):
        raise Refusal(
            422,
            f"the recording lasts {speech.duration_sec:.1f} s, too short for its text; record the whole "
            "sentence, or send the words that were spoken",
        )


def _as_recorded(body: bytes) -> Tensor:
    """Return the samples at their own rate, since conversion to another one blurs what is cut off."""
    with held_in_memory(body) as location:
        try:
            return read_audio(location, rate_hz=probe(location).rate_hz)
        except DataError as error:
            raise Refusal(422, str(error).replace(location, "the body")) from error


def _loudest(samples: Tensor, rate_hz: int) -> float:
    """Return the RMS of the loudest of the blocks of 50 ms."""
    size = max(1, round(_BLOCK_SEC * rate_hz))
    count = max(1, len(samples) // size)
    blocks = samples[: count * size].view(count, -1)
    return float((blocks - samples.mean()).square().mean(dim=1).sqrt().max())


def _clipped(samples: Tensor) -> float:
    """Return the fraction of samples at full scale."""
    return float((samples.abs() >= _FULL).to(torch.float32).mean())
