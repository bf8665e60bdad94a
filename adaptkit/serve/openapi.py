"""OpenAPI descriptions beyond the types: statuses, examples and the body."""

from collections.abc import Callable
from typing import Any

from adaptkit.serve.schemas import Answer, Failure

SUMMARY = "Speech recognition with a Submodel for every speaker"
EXAMPLE_ADDRESS = "http://127.0.0.1:8000"  # replaced by the one that the client has used
ABOUT = (
    "One base model is in memory, with the most recently used Submodels. Requests for different speakers "
    "are batched together, each row with its own Submodel. With `--workers`, several such processes share "
    "the incoming connections: `/metrics` sums over them, other responses describe the one that answers.\n\n"
    f"    curl --data-binary @speech.wav '{EXAMPLE_ADDRESS}/v1/recognize?speaker=bob'\n"
    f"    curl -F file=@speech.wav -F model=bob {EXAMPLE_ADDRESS}/v1/audio/transcriptions\n\n"
    "Programs made for OpenAI's API take this address as their base URL, with `/v1` at its end: "
    f'`OpenAI(base_url="{EXAMPLE_ADDRESS}/v1", api_key="unused")`.'
)
SPEAKER = (
    "The speaker whose Submodel to use, as listed by `GET /v1/submodels`; the base model if omitted. One "
    "without a Submodel has that of `shared`, if it is listed. Servers started with `--unknown-speaker "
    "shared`, `likelihood` or `embedding` choose a Submodel for both. It is never used as a path."
)
NBEST = "Return so many hypotheses with their scores; at most as many as the server's `--nbest`."
AUDIO = {
    "requestBody": {
        "required": True,
        "description": "A single-channel audio file, unencoded: WAV, FLAC, OGG or another format that "
        "libsndfile reads. The format is detected from the content; the Content-Type is ignored. Audio is "
        "resampled to the model's rate. Chunked bodies need no Content-Length.",
        "content": {
            media: {"schema": {"type": "string", "format": "binary", "contentMediaType": media}}
            for media in ("audio/wav", "audio/flac", "audio/ogg", "application/octet-stream")
        },
    }
}
RECOGNISED = {
    "text": "turn the lights on",
    "score": -3.7214,
    "nbest": [
        {"text": "turn the lights on", "score": -3.7214},
        {"text": "turn the light on", "score": -5.0138},
    ],
    "speaker": "eve",  # unknown, and served with --unknown-speaker embedding
    "submodel": {"task": "bob", "step": 400, "kind": "hra", "base_fingerprint": "0f6c2b9be41d"},
    "route": {
        "method": "embedding",
        "chosen": "bob",
        "score": 0.7312,
        "runner_up": "ann",
        "runner_up_score": 0.6847,
    },
    "audio_sec": 2.31,
    "timings": {
        "features_ms": 2.9,
        "queue_ms": 4.1,
        "route_ms": 9.7,
        "load_ms": 0.1,
        "model_ms": 21.8,
        "total_ms": 39.9,
        "batch_size": 7,
        "batch_speakers": 5,
    },
}
SUBMODELS = {
    "known": [{"speaker": "bob", "resident": True}],
    "problems": [{"name": "eve", "reason": "eve.safetensors: truncated (912 bytes); export it again"}],
    "num_slots": 1024,
    "bytes_each": 131072,
}
HEALTH = {
    "ready": True,
    "base_fingerprint": "0f6c2b9be41d0f6c2b9be41d0f6c2b9b",
    "num_known": 64,
    "queue_length": 0,
}
REFUSED = {
    400: ("The request is malformed.", "the body is empty; send the audio file as it is"),
    404: ("No such speaker.", "speaker: there is no Submodel of 'bop'; did you mean 'bob'?"),
    408: ("The body did not arrive in time.", "the body was not complete after 30 s; send it again"),
    409: (
        "The speaker's Submodel is damaged.",
        "the Submodel of 'eve' cannot be used: eve.safetensors: truncated",
    ),
    413: (
        "The body or the audio is too long.",
        "the body may have at most 10000000 bytes, but has 12000000 bytes",
    ),
    415: ("The body is not audio.", "the body: not audio (Format not recognised); convert it to WAV or FLAC"),
    422: ("The audio cannot be recognised.", "the body: 2 channels where one is needed"),
    500: ("An internal error, described in the server's log.", "internal error; see the log of the server"),
    503: (
        "Too many requests are in progress.",
        "256 requests are in progress already; send this later",
    ),
    507: ("The disk of the server is full.", "the disk of the server is full, so nothing was kept"),
    504: ("No response in time.", "no response in time; send it again, or ask for a higher --timeout-sec"),
}
METRICS_TYPE = "text/plain; version=0.0.4"
METRICS = {
    METRICS_TYPE: {
        "schema": {"type": "string"},
        "example": 'adaptkit_requests_total{path="/v1/recognize",status="200"} 64.0',
    }
}
RETRY = {"headers": {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}}}}


def failed(status: int, message: str) -> dict[str, Any]:
    """Return the body of an error response."""
    return Failure(status=status, message=message).model_dump()


def refused(
    *statuses: int, model: type[Answer] = Failure, failed: Callable[[int, str], dict[str, Any]] = failed
) -> dict[int | str, dict[str, Any]]:
    """Describe the error statuses of a route, with an example of each as `failed` makes it."""
    described: dict[int | str, dict[str, Any]] = {}
    for status in statuses:
        meaning, message = REFUSED[status]
        example = {"application/json": {"example": failed(status, message)}}
        headers = RETRY if status == 503 else {}
        described[status] = {"model": model, "description": meaning, "content": example, **headers}
    return described


def answered(example: dict[str, Any], meaning: str) -> dict[str, Any]:
    """Describe a successful response with an example."""
    return {"description": meaning, "content": {"application/json": {"example": example}}}
