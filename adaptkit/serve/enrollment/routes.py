"""The routes of speakers: their prompts, recordings, corrections and jobs."""

import asyncio
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from fastapi import FastAPI, Path, Request, Response

from adaptkit.errors import AdaptkitError
from adaptkit.serve.enrollment import openapi
from adaptkit.serve.enrollment.schemas import Job, Prompts, Recording, Speaker, Speakers
from adaptkit.serve.enrollment.service import Enrollment
from adaptkit.serve.forms import Form, FormFields, read_form
from adaptkit.serve.openapi import answered, refused
from adaptkit.serve.schemas import Refusal
from adaptkit.serve.service import Service

Result = TypeVar("Result")
Name = Annotated[str, Path(description=openapi.NAME, examples=["anna"])]
RecordingId = Annotated[str, Path(description="Its id, as the speaker's list has it.")]
_NO_STORE = {"Cache-Control": "no-store"}  # recordings of people do not stay in caches


def add_speakers(app: FastAPI, service: Service) -> None:
    """Add the routes of speakers; without --enroll they say how to get it."""
    for add in (_add_lists, _add_speaker, _add_uploads, _add_recordings, _add_jobs):
        add(app, service)


def _add_lists(app: FastAPI, service: Service) -> None:
    @app.get(
        "/v1/prompts",
        summary="List the prompts",
        response_model=Prompts,
        responses={200: answered(openapi.PROMPTS, "The sentences to be read aloud."), **refused(404, 500)},
    )
    def prompts() -> Prompts:
        """List the sentences that a new speaker reads aloud."""
        return _enrollment(service).list_prompts()

    @app.get(
        "/v1/speakers",
        summary="List the speakers",
        response_model=Speakers,
        responses={
            200: answered({"speakers": [openapi.SPEAKER]}, "The speakers with recordings here."),
            **refused(404, 500, 503),
        },
    )
    async def speakers() -> Speakers:
        """List the speakers that were made on this server, with their recordings and jobs."""
        return await _do(service, Enrollment.list_speakers)


def _add_speaker(app: FastAPI, service: Service) -> None:
    @app.put(
        "/v1/speakers/{name}",
        summary="Make a speaker",
        response_model=Speaker,
        responses={
            200: answered(openapi.SPEAKER, "The speaker was there already."),
            201: {"model": Speaker, **answered(openapi.SPEAKER, "The speaker has been made.")},
            **refused(400, 404, 422, 500, 503, 507),
        },
    )
    async def make(name: Name, response: Response) -> Speaker:
        """Make a speaker without recordings, unless there is one of that name."""
        is_new, speaker = await _do(service, Enrollment.make, name)
        response.status_code = 201 if is_new else 200
        return speaker

    @app.get(
        "/v1/speakers/{name}",
        summary="Describe a speaker",
        response_model=Speaker,
        responses={
            200: answered(openapi.SPEAKER, "The speaker, with recordings and job."),
            **refused(400, 404, 422, 500, 503),
        },
    )
    async def describe(name: Name) -> Speaker:
        """Describe a speaker, with all recordings and the latest job."""
        return await _do(service, Enrollment.describe, name)

    @app.delete(
        "/v1/speakers/{name}",
        summary="Remove a speaker",
        status_code=204,
        responses={
            204: {"description": "Nothing is left of the speaker."},
            **refused(400, 404, 422, 500, 503),
        },
    )
    async def remove(name: Name) -> Response:
        """Remove all of a speaker: recordings, corrections, job and Submodel."""
        await _do(service, Enrollment.remove, name)
        return Response(status_code=204)


def _add_uploads(app: FastAPI, service: Service) -> None:
    kept = {201: answered(openapi.RECORDING, "It is kept.")}
    statuses = (400, 404, 408, 409, 413, 415, 422, 500, 503, 507)

    @app.post(
        "/v1/speakers/{name}/recordings",
        summary="Keep a recording",
        status_code=201,
        response_model=Recording,
        responses={**kept, **refused(*statuses)},
        openapi_extra=openapi.form(text=False, prompt=False),
    )
    async def record(request: Request, name: Name) -> Recording:
        """Keep a recording with its text; it takes the place of an earlier one of the same prompt."""
        with service.admitted():
            form = await _read(request, service, ("text", "prompt"))
            text, prompt = form.fields.get("text", ""), form.fields.get("prompt") or None
            return await _do(service, Enrollment.add, name, form.file, text, prompt, False)

    @app.post(
        "/v1/corrections",
        summary="Keep a correction",
        status_code=201,
        response_model=Recording,
        responses={
            201: answered(openapi.CORRECTION, "It is kept."),
            **refused(*statuses),
        },
        openapi_extra=openapi.form(text=True, speaker=True),
    )
    async def correct(request: Request) -> Recording:
        """Keep an utterance with its right text among the speaker's recordings, for the next enrollment."""
        with service.admitted():
            form = await _read(request, service, ("text", "speaker"))
            for field in ("text", "speaker"):
                if not form.fields.get(field):
                    raise Refusal(422, f"{field}: missing; send file, text and speaker")
            speaker, text = form.fields["speaker"], form.fields["text"]
            return await _do(service, Enrollment.add, speaker, form.file, text, None, True)


def _add_recordings(app: FastAPI, service: Service) -> None:
    @app.get(
        "/v1/speakers/{name}/recordings/{recording}",
        summary="Play a recording",
        response_class=Response,
        responses={
            200: {"description": "A WAV file.", "content": openapi.WAV},
            **refused(400, 404, 422, 500, 503),
        },
    )
    async def play(name: Name, recording: RecordingId) -> Response:
        """Return a recording as it is kept."""
        audio = await _do(service, Enrollment.find_audio, name, recording)
        return Response(audio, media_type="audio/wav", headers=_NO_STORE)

    @app.delete(
        "/v1/speakers/{name}/recordings/{recording}",
        summary="Remove a recording",
        status_code=204,
        responses={204: {"description": "It is gone."}, **refused(400, 404, 422, 500, 503, 507)},
    )
    async def remove(name: Name, recording: RecordingId) -> Response:
        """Remove a recording or a correction."""
        await _do(service, Enrollment.remove_recording, name, recording)
        return Response(status_code=204)


def _add_jobs(app: FastAPI, service: Service) -> None:
    @app.post(
        "/v1/speakers/{name}/enroll",
        summary="Start an enrollment",
        status_code=202,
        response_model=Job,
        responses={
            202: answered(openapi.QUEUED, "The job waits for its turn."),
            **refused(400, 404, 409, 422, 500, 503, 507),
        },
    )
    async def enroll(name: Name) -> Job:
        """Train a Submodel on the speaker's recordings; it is used if it is better than what was before."""
        return await _do(service, Enrollment.enroll, name)

    @app.get(
        "/v1/speakers/{name}/enroll",
        summary="Describe an enrollment",
        response_model=Job,
        responses={
            200: answered(openapi.JOB, "The latest job of the speaker."),
            **refused(400, 404, 422, 500, 503),
        },
    )
    async def find(name: Name) -> Job:
        """Describe how far the speaker's latest job is, or what came of it."""
        return await _do(service, Enrollment.find_job, name)

    @app.delete(
        "/v1/speakers/{name}/enroll",
        summary="Cancel an enrollment",
        status_code=202,
        response_model=Job,
        responses={
            202: answered(openapi.CANCELLED, "The job has ended."),
            **refused(400, 404, 422, 500, 503),
        },
    )
    async def cancel(name: Name) -> Job:
        """Cancel the job of a speaker; one that has ended stays as it is."""
        return await _do(service, Enrollment.cancel, name)


def _enrollment(service: Service) -> Enrollment:
    if service.enrollment is None:
        raise Refusal(
            404,
            "this server keeps no recordings; start it with --enroll DIR --prompts FILE",
        )
    return service.enrollment


async def _read(request: Request, service: Service, known: tuple[str, ...]) -> Form:
    _enrollment(service)
    limits = service.limits
    return await read_form(
        request, FormFields(known), most_bytes=limits.max_body_bytes, timeout_sec=limits.timeout_sec
    )


async def _do(service: Service, act: Callable[..., Result], *arguments: Any) -> Result:
    """Act in a thread, as it may wait for the disk or for another process."""
    enrollment = _enrollment(service)
    acting = asyncio.get_running_loop().run_in_executor(enrollment.pool, act, enrollment, *arguments)
    try:
        return await asyncio.wait_for(asyncio.shield(acting), service.limits.timeout_sec)
    except asyncio.TimeoutError as error:
        raise Refusal(503, "the folder of recordings is in use by another program; try it again") from error
    except Refusal:
        raise
    except AdaptkitError as error:
        raise enrollment.as_refusal(error) from error
