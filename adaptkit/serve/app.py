"""The HTTP application: its routes, and the responses to refusals and errors."""

from collections.abc import Mapping
from importlib import metadata
from time import perf_counter
from typing import Annotated

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from adaptkit.serve import openai, openai_schemas, openapi
from adaptkit.serve.access import Access
from adaptkit.serve.api_page import add_api_page
from adaptkit.serve.audio import receive
from adaptkit.serve.clients import received, unless_gone
from adaptkit.serve.enrollment.routes import add_speakers
from adaptkit.serve.middleware import AllowedHosts, Counting
from adaptkit.serve.openapi import answered, refused
from adaptkit.serve.page import add_page
from adaptkit.serve.schemas import Health, Recognised, Refusal, Submodels
from adaptkit.serve.service import Service

_LONGEST_NAME = 1000
_LONGEST_SHOWN = 100  # characters of a header
Speaker = Annotated[
    str | None,
    Query(min_length=1, max_length=_LONGEST_NAME, description=openapi.SPEAKER, examples=["bob"]),
]
Nbest = Annotated[int | None, Query(ge=1, le=1000, description=openapi.NBEST, examples=[3])]


def create_app(service: Service) -> FastAPI:
    """Create the application that answers requests with a service."""
    app = FastAPI(
        title="adaptkit serve",
        summary=openapi.SUMMARY,
        description=openapi.ABOUT,
        version=metadata.version("adaptkit"),
        servers=[{"url": ".", "description": "this server"}],  # relative to the description
        openapi_url=None,  # add_api_page has it
        docs_url=None,  # FastAPI's pages load scripts from other hosts
        redoc_url=None,
        redirect_slashes=False,  # else /health/ is answered 307 without a message
    )
    _add_errors(app)
    _add_recognize(app, service)
    _add_state(app, service)
    openai.add_openai(app, service)
    add_speakers(app, service)
    add_api_page(app)
    add_page(app, most_sec=service.most_sec, most_bytes=service.limits.max_body_bytes)
    paths = frozenset(route.path for route in app.routes)
    app.add_middleware(Access, tokens=service.tokens, refuse=_failure)
    app.add_middleware(AllowedHosts, names=service.hosts, refuse=_refuse_host)
    app.add_middleware(Counting, metrics=service.metrics, paths=paths)
    return app


def _add_recognize(app: FastAPI, service: Service) -> None:
    limits = service.limits

    @app.post(
        "/v1/recognize",
        summary="Recognise an audio file",
        response_model=Recognised,
        responses={
            200: answered(openapi.RECOGNISED, "The transcript."),
            **refused(400, 404, 408, 409, 413, 415, 422, 500, 503, 504),
        },
        openapi_extra=openapi.AUDIO,
    )
    async def recognize(request: Request, speaker: Speaker = None, nbest: Nbest = None) -> Recognised:
        """Transcribe an audio file with the speaker's Submodel, or with the base model."""
        started = perf_counter()
        _refuse_unknown_parameters(request, ("speaker", "nbest"))
        with service.admitted():
            receiving = receive(request.headers, request.stream(), limits.max_body_bytes)
            body = await received(receiving, limits.timeout_sec)
            work = service.recognise(body, speaker, nbest, started_sec=started)
            return await unless_gone(request, work, limits.timeout_sec - (perf_counter() - started))


def _add_state(app: FastAPI, service: Service) -> None:
    @app.get(
        "/v1/submodels",
        summary="List the Submodels",
        response_model=Submodels,
        responses={200: answered(openapi.SUBMODELS, "The folder as of the last scan."), **refused(500)},
    )
    def submodels() -> Submodels:
        """List the available speakers, which of their Submodels are in memory, and unusable files."""
        return service.list_submodels()

    @app.get(
        "/health",
        summary="Report whether the server is ready",
        response_model=Health,
        responses={
            200: answered(openapi.HEALTH, "The server is ready."),
            503: {
                "model": Health,
                **answered({**openapi.HEALTH, "ready": False}, "The server is not ready."),
            },
            **refused(500),
        },
    )
    async def health(response: Response) -> Health:
        """Report whether the server is ready, its base model, and the length of its queue."""
        found = service.health()
        response.status_code = 200 if found.ready else 503
        return found

    @app.get(
        "/metrics",
        summary="Export Prometheus metrics",
        response_class=Response,
        responses={
            200: {"description": "Metrics in Prometheus' text format.", "content": openapi.METRICS},
            **refused(500),
        },
    )
    def metrics() -> Response:
        """Export request counts and latencies, batch sizes, and the state of the queue and the cache."""
        return Response(service.format_metrics(), media_type=openapi.METRICS_TYPE)


def _add_errors(app: FastAPI) -> None:
    """Return every error with the same kind of body."""

    @app.exception_handler(Refusal)
    async def refusal(request: Request, error: Refusal) -> Response:
        return _failure(request.url.path, error.status, error)

    @app.exception_handler(RequestValidationError)
    async def misuse(request: Request, error: RequestValidationError) -> Response:
        problems = [f"{problem['loc'][-1]}: {problem['msg']}" for problem in error.errors()]
        return _failure(request.url.path, 400, "; ".join(problems))

    @app.exception_handler(HTTPException)
    async def no_route(request: Request, error: HTTPException) -> Response:
        where = f"{request.method} {request.url.path}: {error.detail}; GET /docs lists the routes"
        return _failure(request.url.path, error.status_code, where, error.headers)

    @app.exception_handler(Exception)
    async def bug(request: Request, error: Exception) -> Response:
        why = "internal error; see the log of the server"  # which has the traceback
        return _failure(request.url.path, 500, why)


def _failure(
    path: str, status: int, why: str | Refusal, headers: Mapping[str, str] | None = None
) -> Response:
    """Return an error response and close the connection, since the body may not have been read."""
    retry = {"Retry-After": "1"} if status == 503 else {}
    is_openai = openai.is_own(path)
    content = openai_schemas.failure(status, why) if is_openai else openapi.failed(status, str(why))
    return JSONResponse(content, status, headers={**(headers or {}), **retry, "Connection": "close"})


def _refuse_host(path: str, host: str) -> Response:
    named = f"Host {host[:_LONGEST_SHOWN]!r}: this server is not known by that name"
    remedy = "use localhost, or name it when starting the server: --allowed-host NAME"
    return _failure(path, 400, f"{named}; {remedy}")


def _refuse_unknown_parameters(request: Request, known: tuple[str, ...]) -> None:
    """Refuse unknown and repeated parameters: a typo would otherwise select the base model."""
    names = [name for name, _ in request.query_params.multi_items()]
    for name in names:
        if name not in known:
            raise Refusal(400, f"{name}: unknown parameter; the parameters are: {', '.join(known)}")
        if names.count(name) > 1:
            raise Refusal(400, f"{name}: given {names.count(name)} times; send it once")
