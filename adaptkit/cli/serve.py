"""`adaptkit serve`: speech recognition over HTTP."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
    UnknownRequest,
    choose_device,
    request_search,
)
from adaptkit.cli.script import set_up_messages
from adaptkit.errors import AdaptkitError

if TYPE_CHECKING:
    from adaptkit.serve.enrollment.service import EnrollmentSettings

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
    typer.Option(
        metavar="SEC", min=0.01, max=86400, help="Time limit for a response, and for an idle connection."
    ),
]
MaxBodyMb = Annotated[
    float, typer.Option(metavar="MB", min=0.001, max=1_000_000, help="Largest request body.")
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
TokenFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Answer only requests with a token of this file, a token per line, in the header "
        "'Authorization: Bearer TOKEN'.",
        show_default=False,
    ),
]
Preload = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="Load this speaker's Submodel at startup and keep it; repeatable."),
]

RefreshSec = Annotated[
    float, typer.Option(metavar="SEC", min=0.01, help="Interval between scans of the folder.")
]
Unknown = Annotated[
    UnknownRequest,
    typer.Option(
        help="For speakers without a Submodel, error uses the one named 'shared', else answers 404; base "
        "uses the base model; shared, likelihood and embedding also serve requests without a speaker: by "
        "'shared', or by the Submodel that the audio fits best, or of the nearest voice."
    ),
]
Nearest = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=1,
        help="With likelihood: compare the Submodels of the N nearest voices.",
        show_default="8",
    ),
]

Enroll = Annotated[
    Path | None,
    typer.Option(
        "--enroll",
        metavar="DIR",
        help="Let people enroll by voice: keep their recordings here, a data directory for each speaker, and "
        "train Submodels on them; needs --prompts.",
        show_default="no recordings are kept",
    ),
]
PromptFile = Annotated[
    Path | None,
    typer.Option(
        "--prompts",
        metavar="FILE",
        help="The sentences that new speakers read aloud, as a Kaldi table of ids and texts.",
        show_default=False,
    ),
]
MaxRecordings = Annotated[
    int | None,
    typer.Option(metavar="N", min=5, help="With --enroll: recordings of a speaker.", show_default="1000"),
]

EnrollNice = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=0,
        max=19,
        help="With --enroll: the priority of training; at 19 it takes what the server and others leave, "
        "at 0 as much as they do.",
        show_default="19",
    ),
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
    unknown_speaker: Unknown = UnknownRequest.error,
    route_nearest: Nearest = None,
    search: BaseSearch = None,
    search_set: SearchSet = None,
    lm: Lm = None,
    nbest: Nbest = None,
    max_batch: MaxBatch = 64,
    batch_frames: BatchFrames = 24000,
    max_body_mb: MaxBodyMb = 10,
    max_sec: Annotated[float, typer.Option(metavar="SEC", min=0.1, help="Longest recording.")] = 60,
    max_queue: MaxQueue = 256,
    timeout_sec: TimeoutSec = 30,
    refresh_sec: RefreshSec = 2,
    preload: Preload = None,
    allowed_host: AllowedHost = None,
    token_file: TokenFile = None,
    enroll: Enroll = None,
    prompts: PromptFile = None,
    max_recordings: MaxRecordings = None,
    enroll_nice: EnrollNice = None,
    device: Device = "auto",
) -> None:
    """Transcribe audio sent over HTTP, each request with the Submodel of its speaker.

    Example: adaptkit serve --base exp/base --submodels exp/submodels
    """
    _leave_foreign_metrics()
    try:
        from adaptkit.serve.access import read_tokens
        from adaptkit.serve.run import serve as run
        from adaptkit.serve.service import ServerLimits, ServerSettings
    except ModuleNotFoundError as error:
        raise AdaptkitError(f"{error}; for the server, run: pip install 'adaptkit[serve]'") from error
    limits = ServerLimits(max_batch, batch_frames, max_body_mb, max_sec, max_queue, timeout_sec)
    settings = ServerSettings(
        base=base,
        submodels=submodels,
        host=host,
        port=port,
        submodel_mb=1024 if submodel_mb is None else submodel_mb,
        unknown_speaker=unknown_speaker.value,
        route_nearest=route_nearest,
        limits=limits,
        refresh_sec=refresh_sec,
        num_workers=workers,
        preload=tuple(dict.fromkeys(preload or ())),
        allowed_hosts=tuple(dict.fromkeys(allowed_host or ())),
        tokens=() if token_file is None else read_tokens(token_file),
        search=request_search(search, search_set, lm, nbest),
        enrollment=_enrollment(enroll, prompts, max_recordings, enroll_nice),
    )
    run(settings, device=choose_device(device), set_up=set_up_messages)


def _leave_foreign_metrics() -> None:
    for name in FOREIGN:
        os.environ.pop(name, None)


def _enrollment(
    enroll: Path | None, prompts: Path | None, max_recordings: int | None, nice: int | None
) -> "EnrollmentSettings | None":
    """Return the settings of enrollment; refuse options of which one means nothing without the other."""
    from adaptkit.serve.enrollment.service import EnrollmentSettings

    if enroll is not None and prompts is None:
        raise AdaptkitError(
            f"--enroll {enroll}: needs the sentences to be read; add --prompts FILE, with lines 'id words'"
        )
    given = {"--prompts": prompts, "--max-recordings": max_recordings, "--enroll-nice": nice}
    idle = [name for name, value in given.items() if value is not None]
    if enroll is None and idle:
        raise AdaptkitError(f"{idle[0]}: has no effect without --enroll; add --enroll DIR, or remove it")
    return enroll and EnrollmentSettings(
        enroll.resolve(), prompts, max_recordings or 1000, 19 if nice is None else nice
    )
