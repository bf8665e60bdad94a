"""`adaptkit init`: a recipe folder of one's own."""

import typer


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
