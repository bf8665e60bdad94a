"""The routes of OpenAI's API for transcription, so that programs made for it can use this server."""

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Annotated, Any

from fastapi import FastAPI, Path, Request, Response
from fastapi.responses import JSONResponse

from adaptkit.decoding import transcripts
from adaptkit.decoding.transcripts import Transcript
from adaptkit.serve.batching import Found
from adaptkit.serve.clients import unless_gone
from adaptkit.serve.forms import Form, FormFields, read_form
from adaptkit.serve.openai_schemas import (
    BASE,
    FORM,
    FORMATS,
    GRANULARITIES,
    MODEL,
    SUBTITLES,
    VERBOSE,
    Failed,
    Misuse,
    Model,
    Models,
    Segment,
    TimedWord,
    Transcription,
    Usage,
    failure,
)
from adaptkit.serve.openapi import answered, refused
from adaptkit.serve.schemas import Refusal
from adaptkit.serve.service import Service
from adaptkit.serve.speakers import written_sec

_FIELDS = FormFields(
    ("model", "response_format", "language", "prompt", "temperature", "stream", "chunking_strategy"),
    lists=(GRANULARITIES, "timestamp_granularities"),
    example="model=base",
)
_GRANULARITIES = ("word", "segment")
_LONGEST_NAME = 1000
_LONGEST_LANGUAGE = 35  # of BCP 47
_LONGEST_SHOWN = 100  # characters of a value in a message
Name = Annotated[str, Path(description="The speaker, or `base` for the base model.", examples=["bob"])]


@dataclass(frozen=True)
class _Wanted:
    """What a request asks for."""

    model: str
    format: str  # one of FORMATS
    granularities: frozenset[str]
    language: str

    @property
    def has_times(self) -> bool:
        """Whether the times of words are needed."""
        return "word" in self.granularities or self.format in ("srt", "vtt")


def is_own(path: str) -> bool:
    """Return whether errors of a path have OpenAI's form."""
    return path == "/v1/models" or path.startswith(("/v1/models/", "/v1/audio/"))


def add_openai(app: FastAPI, service: Service) -> None:
    """Add the routes."""
    _add_models(app, service)
    limits = service.limits

    @app.post(
        "/v1/audio/transcriptions",
        summary="Transcribe, as OpenAI's API",
        response_model=Transcription,
        responses={
            200: {
                "description": "The transcript, in the format that was asked for.",
                "content": {
                    "application/json": {"example": VERBOSE},
                    "text/plain": {"schema": {"type": "string"}, "example": SUBTITLES},
                    "text/vtt": {"schema": {"type": "string"}, "example": "WEBVTT\n"},
                },
            },
            **_refused(400, 404, 408, 409, 413, 415, 422, 500, 503, 504),
        },
        openapi_extra=FORM,
    )
    async def transcribe(request: Request) -> Response:
        """Transcribe an audio file with a speaker's Submodel as the model, or with the base model."""
        started = perf_counter()
        with service.admitted():
            form = await read_form(
                request, _FIELDS, most_bytes=limits.max_body_bytes, timeout_sec=limits.timeout_sec
            )
            work = _transcribe(service, form.file, _read(form))
            return await unless_gone(request, work, limits.timeout_sec - (perf_counter() - started))


def _add_models(app: FastAPI, service: Service) -> None:
    @app.get(
        "/v1/models",
        summary="List the models, as OpenAI's API",
        response_model=Models,
        responses={
            200: answered({"object": "list", "data": [MODEL]}, "The base model, and every speaker's."),
            **_refused(500),
        },
    )
    def models() -> Models:
        """List the base model and the speakers with Submodels, which requests can name as their model."""
        names = [BASE, *(name for name in service.speakers.names if name != BASE)]
        return Models(object="list", data=[_describe(service, name) for name in names])

    @app.get(
        "/v1/models/{name:path}",
        summary="Describe a model, as OpenAI's API",
        response_model=Model,
        responses={200: answered(MODEL, "The model."), **_refused(404, 422, 500)},
    )
    def model(name: Name) -> Model:
        """Describe the base model or a speaker's."""
        if name != BASE and name not in service.speakers.names:
            raise _unknown(service, name)
        return _describe(service, name)


def _describe(service: Service, name: str) -> Model:
    created = written_sec(service.base.path) if name == BASE else service.speakers.written_sec(name)
    return Model(id=name, object="model", created=created, owned_by="adaptkit")


def _refused(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return refused(*statuses, model=Failed, failed=failure)


def _unknown(service: Service, name: str) -> Misuse:
    near = service.speakers.near(name) if len(name) <= _LONGEST_NAME else ""
    message = (
        f"model: there is no Submodel of '{name[:_LONGEST_SHOWN]}'{near or '; GET /v1/models lists them'}"
    )
    return Misuse(404, f"{message}; '{BASE}' is the base model", "model", "model_not_found")


def _read(form: Form) -> _Wanted:
    """Read the fields of a request; refuse those without effect, unless they ask for what is so anyway."""
    fields = form.fields
    if not fields.get("model"):
        raise Misuse(400, f"model: missing; name a speaker, or '{BASE}' for the base model", "model")
    _refuse_unsupported(fields)
    chosen = fields.get("response_format") or "json"
    if chosen not in FORMATS:
        _refuse("response_format", chosen, f"use one of {', '.join(FORMATS)}")
    asked = frozenset(name for names in form.lists.values() for name in names)
    for name in sorted(asked.difference(_GRANULARITIES)):
        _refuse(GRANULARITIES, name, f"use {' or '.join(_GRANULARITIES)}")
    if asked and chosen != "verbose_json":
        _refuse(GRANULARITIES, ", ".join(sorted(asked)), "it needs response_format verbose_json")
    return _Wanted(fields["model"], chosen, asked or frozenset({"segment"}), fields.get("language", ""))


def _refuse_unsupported(fields: dict[str, str]) -> None:
    if len(fields.get("language", "")) > _LONGEST_LANGUAGE:
        _refuse("language", fields["language"], "send a code such as en, or omit it")
    if fields.get("prompt", "").strip():
        raise Misuse(400, "prompt: the models of this server read no prompts; omit it", "prompt")
    try:
        temperature = float(fields.get("temperature") or 0)
    except ValueError:
        temperature = math.nan
    if temperature != 0:
        _refuse("temperature", fields["temperature"], "nothing is sampled here; send 0, or omit it")
    if fields.get("stream", "").lower() not in ("", "false", "0"):
        _refuse("stream", fields["stream"], "the text comes as a whole here; omit it")
    if fields.get("chunking_strategy", "") not in ("", "auto"):
        _refuse(
            "chunking_strategy", fields["chunking_strategy"], "audio is not cut here; send auto, or omit it"
        )


def _refuse(param: str, value: str, remedy: str) -> None:
    raise Misuse(400, f"{param}: {value[:_LONGEST_SHOWN]!r} is not supported; {remedy}", param)


async def _transcribe(service: Service, body: bytes, wanted: _Wanted) -> Response:
    speaker, is_base = (None, True) if wanted.model == BASE else (wanted.model, False)
    if len(wanted.model) > _LONGEST_NAME:
        raise _unknown(service, wanted.model)
    try:
        prepared, found = await service.find(body, speaker, is_base=is_base, with_times=wanted.has_times)
    except Refusal as error:
        raise _unknown(service, wanted.model) if error.status == 404 else error from error
    if "word" in wanted.granularities and found.words is None:
        raise Misuse(
            400,
            f"{GRANULARITIES}: the model does not tell where the words of this audio are; omit it",
            GRANULARITIES,
        )
    return _format(found, prepared.audio_sec, wanted)


def _format(found: Found, audio_sec: float, wanted: _Wanted) -> Response:
    text = found.nbest[0].text
    if wanted.format == "text":
        return Response(f"{text}\n", media_type="text/plain")
    if wanted.format in ("srt", "vtt"):
        transcript = _as_transcript(found, audio_sec)
        if wanted.format == "vtt":
            return Response(transcripts.format_vtt(transcript), media_type="text/vtt")
        return Response(transcripts.format_srt(transcript), media_type="text/plain")
    content = Transcription(text=text, usage=Usage(type="duration", seconds=audio_sec))
    if wanted.format == "verbose_json":
        content = content.model_copy(update=_more(found, audio_sec, wanted))
    return JSONResponse(content.model_dump(exclude_unset=True))


def _as_transcript(found: Found, audio_sec: float) -> Transcript:
    nbest = tuple((one.text, one.score) for one in found.nbest)
    used = None if found.submodel is None else found.submodel.task
    return Transcript("", audio_sec, (transcripts.Segment(0.0, audio_sec, nbest, found.words, used),))


def _more(found: Found, audio_sec: float, wanted: _Wanted) -> dict[str, Any]:
    """Return what `verbose_json` has beside the text."""
    more: dict[str, Any] = {
        "task": "transcribe",
        "language": wanted.language or "und",
        "duration": audio_sec,
    }
    if "segment" in wanted.granularities:
        more["segments"] = _segments(found, audio_sec)
    if "word" in wanted.granularities:
        words: Sequence[transcripts.Word] = found.words or ()
        more["words"] = [TimedWord(word=one.text, start=one.start_sec, end=one.end_sec) for one in words]
    return more


def _segments(found: Found, audio_sec: float) -> list[Segment]:
    best = found.nbest[0]
    if not best.text:
        return []
    plain = best.text.encode()
    return [
        Segment(
            id=0,
            seek=0,
            start=0.0,
            end=audio_sec,
            text=best.text,
            tokens=list(found.tokens),
            temperature=0.0,
            avg_logprob=best.score / max(1, len(found.tokens)),
            compression_ratio=len(plain) / len(zlib.compress(plain)),
            no_speech_prob=None,
        )
    ]
