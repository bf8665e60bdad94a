"""OpenAPI descriptions of the routes of speakers, beyond the types."""

from typing import Any

NAME = (
    "The speaker's name, as Submodels have it: without spaces and slashes, at most 100 characters. It is "
    "never used as a path."
)
PROMPTS = {"prompts": [{"id": "p001", "text": "turn the lights on"}]}
RECORDING = {
    "id": "0193ab5c7e21f04a3b",
    "prompt": "p001",
    "text": "turn the lights on",
    "audio_sec": 2.31,
    "kind": "prompt",
}
CORRECTION = {**RECORDING, "prompt": None, "text": "call my sister", "kind": "correction"}
JOB = {
    "state": "installed",
    "position": None,
    "progress": 1.0,
    "seconds": 48.2,
    "message": "the new voice is in use; it was compared with the shared adapter",
    "wer_start": 41.18,
    "wer_new": 17.65,
    "num_train": 16,
    "num_valid": 4,
}
_NOT_YET = {"message": "", "wer_start": None, "wer_new": None, "num_train": None, "num_valid": None}
QUEUED = {**JOB, **_NOT_YET, "state": "queued", "position": 1, "progress": 0.0, "seconds": 0.0}
CANCELLED = {
    **JOB,
    "state": "cancelled",
    "message": "cancelled; nothing has changed",
    "wer_start": None,
    "wer_new": None,
}
SPEAKER = {
    "speaker": "anna",
    "has_submodel": True,
    "audio_sec": 2.31,
    "recordings": [RECORDING],
    "job": JOB,
}
WAV = {
    "audio/wav": {
        "schema": {"type": "string", "format": "binary", "contentMediaType": "audio/wav"},
        "example": "a WAV file",
    }
}
_FIELDS = {
    "text": "the words that were spoken; with a prompt, its text if omitted",
    "prompt": "the id of the prompt that was read; an earlier recording of it is replaced",
    "speaker": "whose recordings it is kept with",
}


def form(**is_required: bool) -> dict[str, Any]:
    """Describe a form of an audio file and further fields."""
    fields = {name: {"type": "string", "description": _FIELDS[name]} for name in is_required}
    audio = {"type": "string", "format": "binary", "description": "an audio file, as for /v1/recognize"}
    schema = {
        "type": "object",
        "required": ["file", *(name for name, is_needed in is_required.items() if is_needed)],
        "properties": {"file": audio, **fields},
    }
    return {
        "requestBody": {
            "required": True,
            "description": "A form with an audio file and its text.",
            "content": {"multipart/form-data": {"schema": schema}},
        }
    }
