"""`adaptkit decode`: transcribe a data directory."""

from pathlib import Path
from typing import Annotated

import typer

from adaptkit.cli.options import (
    AllowPipes,
    Base,
    BatchFrames,
    Command,
    Device,
    Lm,
    Nbest,
    Route,
    RouteBy,
    RouteByOption,
    RouteMethod,
    RouteNearest,
    Search,
    SearchSet,
    SubmodelMb,
    UnknownSpeaker,
    UnknownSpeakers,
    choose_device,
    request_route,
    request_search,
    suggest,
)

Submodels = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="A folder of Submodels to use in place of EXP's adapters."),
]

BaseOverrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change a setting of the base model, as in base.dir=exp/base or base.prompt.language=deu.",
    ),
]
WithoutOwn = Annotated[
    bool,
    typer.Option(
        "--route-without-own", help="Never choose the speaker's own weights, as if they were unknown."
    ),
]


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command(cls=Command)(decode)


def decode(
    exp: Annotated[
        Path,
        typer.Argument(
            metavar="EXP", help="The folder of an experiment or of a base model, or an experiment's yaml."
        ),
    ],
    data: Annotated[
        Path, typer.Argument(metavar="DATA", help="A data directory, with features if the model reads them.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The folder to write to.", show_default="EXP/decode_<set>"),
    ] = None,
    base: Base = None,
    overrides: BaseOverrides = None,
    base_only: Annotated[bool, typer.Option("--base-only", help="Decode without adapters.")] = False,
    submodels: Submodels = None,
    submodel_mb: SubmodelMb = None,
    unknown_speaker: UnknownSpeakers = UnknownSpeaker.error,
    route: Route = RouteMethod.own,
    route_by: RouteByOption = RouteBy.utterance,
    route_nearest: RouteNearest = None,
    route_without_own: WithoutOwn = False,
    search: Search = None,
    search_set: SearchSet = None,
    lm: Lm = None,
    nbest: Nbest = None,
    batch_frames: BatchFrames = 12000,
    allow_pipes: AllowPipes = False,
    device: Device = "auto",
) -> None:
    """Transcribe a data directory, each utterance with the adapters of its speaker.

    Example: adaptkit decode exp/residual dump/test
    """
    from adaptkit.decoding.run import DecodeOptions, decode_folder

    options = DecodeOptions(
        exp=exp,
        data=data,
        out=out,
        base=base,
        overrides=tuple(overrides or ()),
        base_only=base_only,
        unknown_speaker=unknown_speaker.value,
        batch_frames=batch_frames,
        allow_pipes=allow_pipes,
        submodels=submodels,
        submodel_mb=submodel_mb,
        search=request_search(search, search_set, lm, nbest),
        route=request_route(route, route_by, route_nearest, without_own=route_without_own),
    )
    folder = decode_folder(options, device=choose_device(device))
    typer.echo(folder)
    if (data / "text").exists():
        suggest("score", data, folder)
