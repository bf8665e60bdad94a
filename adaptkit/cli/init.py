"""`adaptkit init`: a recipe folder of one's own."""

from pathlib import Path
from typing import Annotated

import typer

from adaptkit.cli.options import Command


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command(cls=Command)(init)


def _names() -> list[str]:
    from adaptkit.corpora import layout

    return layout.names()


def init(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="The folder to make; it must not exist, or be empty.")
    ],
    corpus: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            autocompletion=_names,
            help="A corpus of adaptkit to start from; template is for recordings of your own.",
        ),
    ] = "mini",
) -> None:
    """Lay out a recipe folder: run.sh, local/prepare.py, conf, and the recipes that run.sh calls.

    Example: adaptkit init my_recipe --corpus mini
    """
    import logging

    from adaptkit.corpora import layout

    if corpus not in layout.names():
        known = ", ".join(layout.names())
        raise typer.BadParameter(f"'{corpus}' is none of {known}", param_hint="--corpus")
    layout.lay_out(folder, corpus)
    logging.getLogger(__name__).info("%s: ready; the first lines of its run.sh say what it needs", folder)
    typer.echo(folder)
