"""The response to a request, from what was found in its audio."""

from dataclasses import dataclass

from adaptkit.serve.batching import Found, Waiting
from adaptkit.serve.schemas import Recognised, Timings


@dataclass(frozen=True)
class Prepared:
    """Audio in the form the model reads."""

    row: Waiting | None  # None if the audio is too short for the encoder
    audio_sec: float
    features_sec: float


def describe(
    prepared: Prepared, found: Found, speaker: str | None, nbest: int | None, total_sec: float
) -> Recognised:
    """Describe what was found, with as many hypotheses as asked for and the timings."""
    return Recognised(
        text=found.nbest[0].text,
        score=found.nbest[0].score,
        nbest=None if nbest is None else list(found.nbest[:nbest]),
        speaker=speaker,
        submodel=found.submodel,
        route=found.route,
        audio_sec=prepared.audio_sec,
        timings=_timings(prepared, found, total_sec),
    )


def _timings(prepared: Prepared, found: Found, total_sec: float) -> Timings:
    seconds = {
        "features_ms": prepared.features_sec,
        "queue_ms": found.queue_sec,
        "route_ms": found.route_sec,
        "load_ms": found.load_sec,
        "model_ms": found.model_sec,
        "total_ms": total_sec,
    }
    in_ms = {name: round(1000 * value, 3) for name, value in seconds.items()}
    return Timings(**in_ms, batch_size=found.batch_size, batch_speakers=found.batch_speakers)
