"""`adaptkit serve`: speech recognition over HTTP."""

import os
from pathlib import Path
from typing import Annotated

import typer

from adaptkit.cli.options import (
    BaseSearch,
    BatchFrames,
    Command,
    Device,
    Lm,
    Nbest,
    SearchSet,
    SubmodelMb,
    UnknownSpeaker,
    UnknownSpeakers,
    choose_device,
    request_search,
)
from adaptkit.cli.script import set_up_messages
from adaptkit.errors import AdaptkitError

FOREIGN = ("PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir")  # another program's metrics
Submodels = Annotated[
    Path, typer.Option(metavar="DIR", help="A folder of Submodels; new files there are picked up.")
]
Port = Annotated[
    int, typer.Option(metavar="N", min=0, max=65535, help="The port to listen on; 0 for a free one.")
]
Workers = Annotated[
    int,
    typer.Option(metavar="N", min=1, help="Processes, each with a base model and its share of the cores."),
]
MaxBatch = Annotated[int, typer.Option(metavar="N", min=1, help="Requests per batch.")]
MaxQueue = Annotated[int, typer.Option(metavar="N", min=1, help="Requests in progress at once, per process.")]
TimeoutSec = Annotated[
    float,
    typer.Option(metavar="SEC", min=0.01, help="Time limit for a response, and for an idle connection."),
]
Host = Annotated[str, typer.Option(metavar="HOST", help="The address to listen on; 0.0.0.0 for all.")]
AllowedHost = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME",
        help="Answer requests whose Host header has this name, besides localhost, --host and the numeric "
        "address of the connection; repeatable.",
    ),
]
Preload = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="Load this speaker's Submodel at startup and keep it; repeatable."),
]


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command(cls=Command)(serve)


def serve(
    base: Annotated[Path, typer.Option(metavar="DIR", help="The folder of the base model.")],
    submodels: Submodels,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    workers: Workers = 1,
    submodel_mb: SubmodelMb = None,
    unknown_speaker: UnknownSpeakers = UnknownSpeaker.error,
    search: BaseSearch = None,
    search_set: SearchSet = None,
    lm: Lm = None,
    nbest: Nbest = None,
    max_batch: MaxBatch = 64,
    batch_frames: BatchFrames = 24000,
    max_body_mb: Annotated[float, typer.Option(metavar="MB", min=0.001, help="Largest request body.")] = 10,
    max_sec: Annotated[float, typer.Option(metavar="SEC", min=0.1, help="Longest recording.")] = 60,
    max_queue: MaxQueue = 256,
    timeout_sec: TimeoutSec = 30,
    refresh_sec: Annotated[
        float, typer.Option(metavar="SEC", min=0.01, help="Interval between scans of the folder.")
    ] = 2,
    preload: Preload = None,
    allowed_host: AllowedHost = None,
    device: Device = "auto",
) -> None:
    """Transcribe audio sent over HTTP, each request with the Submodel of its speaker.

    Example: adaptkit serve --base exp/base --submodels exp/submodels
    """
    _leave_foreign_metrics()
    try:
        from adaptkit.serve.run import serve as run
        from adaptkit.serve.service import ServerLimits, ServerSettings
    except ModuleNotFoundError as error:
        raise AdaptkitError(f"{error}; for the server, run: pip install 'adaptkit[serve]'") from error
    limits = ServerLimits(
        max_batch=max_batch,
        batch_frames=batch_frames,
        max_body_mb=max_body_mb,
        max_sec=max_sec,
        max_queue=max_queue,
        timeout_sec=timeout_sec,
    )
    settings = ServerSettings(
        base=base,
        submodels=submodels,
        host=host,
        port=port,
        submodel_mb=1024 if submodel_mb is None else submodel_mb,
        unknown_speaker=unknown_speaker.value,
        limits=limits,
        refresh_sec=refresh_sec,
        num_workers=workers,
        preload=tuple(dict.fromkeys(preload or ())),
        allowed_hosts=tuple(dict.fromkeys(allowed_host or ())),
        search=request_search(search, search_set, lm, nbest),
    )
    run(settings, device=choose_device(device), set_up=set_up_messages)


def _leave_foreign_metrics() -> None:
    for name in FOREIGN:
        os.environ.pop(name, None)
