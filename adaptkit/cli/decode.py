"""`adaptkit decode`: hypotheses of a data directory."""

from pathlib import Path
from typing import Annotated

import typer

from adaptkit.cli.options import AllowPipes, Device, choose_device


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command()(decode)


def decode(
    exp: Annotated[Path, typer.Argument(help="An experiment's folder, or a base model's.")],
    data: Annotated[Path, typer.Argument(help="A data directory, with features if the model reads them.")],
    out: Annotated[
        Path | None,
        typer.Option(help="Folder to write to; EXP/decode_<set> or DIR/decode_<set> if not given."),
    ] = None,
    base: Annotated[Path | None, typer.Option(help="The base model, where it has moved.")] = None,
    base_only: Annotated[bool, typer.Option("--base-only", help="Leave the adapters out.")] = False,
    submodels: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A folder of Submodels, loaded as speakers need them.")
    ] = None,
    submodel_mb: Annotated[
        int | None,
        typer.Option(min=1, help="MiB that Submodels may take in memory; 1024 if not given."),
    ] = None,
    unknown_task: Annotated[
        str, typer.Option(help="error, or base: leave unknown tasks to the base.")
    ] = "error",
    batch_frames: Annotated[
        int, typer.Option(min=1, help="Feature frames of a batch, with padding.")
    ] = 12000,
    allow_pipes: AllowPipes = False,
    device: Device = "auto",
) -> None:
    """Recognise a data directory, every utterance with the adapter of its own task.

    Example: adaptkit decode exp/residual dump/test
    """
    if unknown_task not in ("error", "base"):
        raise typer.BadParameter(f"'{unknown_task}' is neither error nor base", param_hint="--unknown-task")
    from adaptkit.decoding import run

    wanted = run.Wanted(
        exp=exp,
        data=data,
        out=out,
        base=base,
        base_only=base_only,
        unknown_task=unknown_task,
        batch_frames=batch_frames,
        allow_pipes=allow_pipes,
        submodels=submodels,
        submodel_mb=submodel_mb,
    )
    typer.echo(run.decode_folder(wanted, device=choose_device(device)))
