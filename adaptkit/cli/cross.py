"""`adaptkit submodels cross`: every Submodel on every speaker."""

from pathlib import Path
from typing import Annotated

import typer

from adaptkit.cli.options import AllowPipes, Device, choose_device


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command()(cross)


def cross(
    exp: Annotated[Path, typer.Argument(help="The folder of trained adapters.")],
    data: Annotated[Path, typer.Argument(help="The set to recognise, of these speakers or of others.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder to write to; EXP/cross_<set> if not given.")
    ] = None,
    base: Annotated[Path | None, typer.Option(help="The base model, where it has moved.")] = None,
    per_speaker: Annotated[
        int | None, typer.Option(min=1, help="Most utterances of a speaker; all if not given.")
    ] = None,
    batch_frames: Annotated[
        int, typer.Option(min=1, help="Feature frames of a batch, with padding.")
    ] = 12000,
    allow_pipes: AllowPipes = False,
    device: Device = "auto",
) -> None:
    """Recognise every speaker with every other's Submodel: a table of errors, a picture and a summary.

    Example: adaptkit submodels cross exp/residual dump/test --per-speaker 2
    """
    from adaptkit.submodels import cross as library

    wanted = library.Wanted(
        exp=exp,
        data=data,
        out=out or exp / f"cross_{data.name}",
        base=base,
        per_speaker=per_speaker,
        batch_frames=batch_frames,
        allow_pipes=allow_pipes,
    )
    matrix = library.cross(wanted, device=choose_device(device))
    for name, rate in matrix.summary().items():
        typer.echo(f"{name:24} {rate:7.2f} % WER")
    typer.echo(wanted.out)
