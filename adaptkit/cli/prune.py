"""`adaptkit adapters prune`: what the adapters of some blocks are worth."""

from pathlib import Path
from typing import Annotated

import typer

from adaptkit.cli.options import Device, choose_device


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command()(prune)


def prune(
    exp: Annotated[Path, typer.Argument(help="The folder of trained adapters that have an option 'blocks'.")],
    data: Annotated[
        Path | None, typer.Option(help="Set to measure on; the experiment's validation set if not given.")
    ] = None,
    from_bottom: Annotated[
        bool, typer.Option("--from-bottom/--from-top", help="Which block loses its adapters first.")
    ] = True,
    retrain_epochs: Annotated[
        int | None, typer.Option(min=1, help="Also train what is left on, for so many epochs.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write to; EXP/pruned_from_bottom if not given.")
    ] = None,
    device: Device = "auto",
) -> None:
    """Tabulate WER against parameters as one block after another loses its adapters.

    Example: adaptkit adapters prune exp/tpa --data dump/test --from-bottom --retrain-epochs 2
    """
    from adaptkit.training import prune as library

    wanted = library.Wanted(
        exp=exp, data=data, out=out, from_bottom=from_bottom, retrain_epochs=retrain_epochs
    )
    typer.echo(library.render(library.prune(wanted, device=choose_device(device))))
