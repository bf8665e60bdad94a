"""`adaptkit submodels add`: new speakers of trained adapters."""

from pathlib import Path
from typing import Annotated

import typer

from adaptkit.cli.options import AllowPipes, Device, Overrides, choose_device


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command()(add)


def add(
    exp: Annotated[Path, typer.Argument(help="The folder of trained adapters.")],
    data: Annotated[Path, typer.Option(help="Data directory of the new speakers.")],
    speaker: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Whom of it, once for each; all if not given.")
    ] = None,
    valid: Annotated[
        Path | None, typer.Option(help="Data directory that chooses their best weights; else the last stay.")
    ] = None,
    start: Annotated[
        str, typer.Option(help="mean of the known speakers, the nearest of them, or new.")
    ] = "mean",
    out: Annotated[
        Path | None, typer.Option(help="Folder for a bank with them; EXP's own takes them if not given.")
    ] = None,
    base: Annotated[Path | None, typer.Option(help="The base model, where it has moved.")] = None,
    overrides: Overrides = None,
    allow_pipes: AllowPipes = False,
    device: Device = "auto",
) -> None:
    """Enrol new speakers by training what is theirs alone, with everything else as it is.

    Example: adaptkit submodels add exp/residual --speaker anna --data dump/anna --start nearest
    """
    from adaptkit.training import enroll

    wanted = enroll.Wanted(
        exp=exp,
        data=data,
        valid=valid,
        speakers=tuple(speaker or ()),
        start=start,
        out=out,
        base=base,
        overrides=tuple(overrides or ()),
        allow_pipes=allow_pipes,
    )
    typer.echo(enroll.add(wanted, device=choose_device(device)))
