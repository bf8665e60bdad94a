"""`adaptkit submodels cost`: one job against many."""

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command()(cost)


def cost(
    one: Annotated[Path, typer.Argument(help="The folder of the job for all tasks.")],
    jobs: Annotated[list[Path], typer.Argument(help="The folders of jobs for one task each.")],
) -> None:
    """Add up the seconds of single trainings, and set them against those of one job for all.

    Example: adaptkit submodels cost exp/submodels/one_job exp/submodels/jobs/*
    """
    from adaptkit.report import cost as library

    typer.echo(library.render(library.read([one]), library.read(jobs)))
