"""`adaptkit serve`: recognition over HTTP."""

import os
from pathlib import Path
from typing import Annotated

import typer

from adaptkit.cli.options import Device, choose_device
from adaptkit.cli.script import set_up_messages
from adaptkit.errors import AdaptkitError

FOREIGN = ("PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir")  # another program's counts are not ours
Workers = Annotated[
    int, typer.Option(min=1, help="Processes, each with a base model and its share of the cores.")
]
SubmodelMb = Annotated[float, typer.Option(min=0, help="Most memory of a process for Submodels, in MiB.")]
UnknownSpeaker = Annotated[str, typer.Option(help="404, or base: leave unknown speakers to the base.")]
BatchFrames = Annotated[int, typer.Option(min=1, help="Feature frames of a batch, with padding.")]
MaxQueue = Annotated[int, typer.Option(min=1, help="Most requests under way at once in a process.")]
TimeoutSec = Annotated[float, typer.Option(min=0.01, help="Longest time to an answer, or without a request.")]
Preload = Annotated[
    list[str] | None, typer.Option(metavar="NAME", help="Load this speaker's now, and keep it.")
]


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command()(serve)


def serve(
    base: Annotated[Path, typer.Option(help="Folder of the base model.")],
    submodels: Annotated[Path, typer.Option(help="Folder of Submodels; new files there are picked up.")],
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 for a free one.")] = 8000,
    workers: Workers = 1,
    submodel_mb: SubmodelMb = 1024,
    unknown_speaker: UnknownSpeaker = "404",
    max_batch: Annotated[int, typer.Option(min=1, help="Requests of a batch.")] = 64,
    batch_frames: BatchFrames = 24000,
    max_body_mb: Annotated[float, typer.Option(min=0.001, help="Longest body, in MB.")] = 10,
    max_seconds: Annotated[float, typer.Option(min=0.1, help="Longest audio.")] = 60,
    max_queue: MaxQueue = 256,
    timeout_sec: TimeoutSec = 30,
    refresh_sec: Annotated[float, typer.Option(min=0.01, help="Time between looks at the folder.")] = 2,
    preload: Preload = None,
    device: Device = "auto",
) -> None:
    """Answer HTTP requests with the words of their audio, every speaker's by the Submodel of their own.

    Example: adaptkit serve --base exp/base --submodels exp/submodels
    """
    if unknown_speaker not in ("404", "base"):
        raise typer.BadParameter(
            f"'{unknown_speaker}' is neither 404 nor base", param_hint="--unknown-speaker"
        )
    for name in FOREIGN:
        os.environ.pop(name, None)
    try:
        from adaptkit.serve.run import serve as run
        from adaptkit.serve.settings import Limits, Settings
    except ModuleNotFoundError as error:
        raise AdaptkitError(f"{error}; the server needs more: pip install 'adaptkit[serve]'") from error
    limits = Limits(
        max_batch=max_batch,
        batch_frames=batch_frames,
        max_body_mb=max_body_mb,
        max_seconds=max_seconds,
        max_queue=max_queue,
        timeout_sec=timeout_sec,
    )
    settings = Settings(
        base=base,
        submodels=submodels,
        host=host,
        port=port,
        submodel_mb=submodel_mb,
        unknown_speaker=unknown_speaker,
        limits=limits,
        refresh_sec=refresh_sec,
        num_workers=workers,
        preload=tuple(dict.fromkeys(preload or ())),
    )
    run(settings, device=choose_device(device), set_up=set_up_messages)
