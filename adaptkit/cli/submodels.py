"""`adaptkit submodels`: what each task owns of trained adapters, in a file of its own."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from adaptkit.cli import cost, cross, enrol

app = typer.Typer(
    help="Enrol speakers; export, merge and list Submodels, a small file for each.", no_args_is_help=True
)
for module in (enrol, cross, cost):
    module.register(app)

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="A folder of Submodels.")]


@app.command()
def export(
    exp: Annotated[Path, typer.Argument(help="The folder of trained adapters.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of Submodels, which may hold some.")],
    task: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Whose, once for each; all if not given.")
    ] = None,
    base: Annotated[Path | None, typer.Option(help="The base model, where it has moved.")] = None,
) -> None:
    """Write what each task owns of trained adapters into a file of its own.

    Example: adaptkit submodels export exp/residual submodels
    """
    import logging

    from adaptkit import experiment
    from adaptkit.base import checkpoint
    from adaptkit.submodels import export as folders

    loaded = checkpoint.load(base or experiment.load(exp / "config.yaml").base.dir)
    written = folders.export(exp / "adapter.safetensors", loaded, folder, tasks=task)
    logging.getLogger(__name__).info("%s: %d Submodels written", folder, len(written))
    typer.echo(folder)


@app.command()
def merge(
    folder: Folder,
    out: Annotated[Path, typer.Argument(help="Folder for the experiment that is made.")],
    base: Annotated[Path, typer.Option(help="The base model they were trained on.")],
    skip_problems: Annotated[
        bool, typer.Option("--skip-problems", help="Leave out files with a problem, and say which.")
    ] = False,
) -> None:
    """Make one experiment of all Submodels of a folder, to be decoded like any other.

    Example: adaptkit submodels merge submodels exp/merged --base exp/base
    """
    import logging

    from adaptkit.base import checkpoint
    from adaptkit.submodels import export as folders

    merged = folders.merge(folder, checkpoint.load(base), out, skip_problems=skip_problems)
    log = logging.getLogger(__name__)
    for entry in merged.left_out:
        log.warning("%s: left out: %s", entry.path, entry.problem)
    log.info("%s: %d Submodels merged, %d left out", out, len(merged.tasks), len(merged.left_out))
    typer.echo(out)


@app.command(name="list")
def list_files(
    folder: Folder,
    base: Annotated[
        Path | None, typer.Option(help="A base model, to find those that are not for it.")
    ] = None,
    form: Annotated[
        Literal["table", "json"], typer.Option("--format", help="How to write the list.")
    ] = "table",
) -> None:
    """Tabulate a folder of Submodels: task, kind, base, parameters, bytes and what is wrong with each.

    Example: adaptkit submodels list submodels --base exp/base
    """
    import json
    import logging
    from dataclasses import asdict

    from adaptkit.base import checkpoint
    from adaptkit.submodels import export as folders

    entries = folders.check(folder, checkpoint.load(base) if base else None)
    if form == "json":
        typer.echo(json.dumps([asdict(entry) for entry in entries], indent=1, default=str))
    else:
        typer.echo(folders.render(entries))
    logging.getLogger(__name__).info("%s: %s", folder, folders.summarise(entries))
