"""`adaptkit adapters merge` and `unmerge`: a task's adapters inside the base's own weights."""

from pathlib import Path
from typing import Annotated

import typer

Exp = Annotated[Path, typer.Argument(help="The folder of trained adapters.")]
Task = Annotated[str, typer.Option(help="Whose adapters.")]
Out = Annotated[Path, typer.Option(help="Folder for the base model that is made.")]


def register(app: typer.Typer) -> None:
    """Add both commands to the app."""
    app.command()(merge)
    app.command()(unmerge)


def merge(
    exp: Exp,
    task: Task,
    out: Out,
    base: Annotated[Path | None, typer.Option(help="The base model, where it has moved.")] = None,
) -> None:
    """Make a base model that has a task's adapters in its weights, for ESPnet without adapters.

    Example: adaptkit adapters merge exp/lora --task spk1 --out exp/base_spk1
    """
    from adaptkit import experiment
    from adaptkit.base import checkpoint as base_checkpoint
    from adaptkit.base import fold as library
    from adaptkit.model import checkpoint

    path = exp / "adapter.safetensors"
    file = checkpoint.load(path)
    loaded = base_checkpoint.load(base or experiment.load(exp / "config.yaml").base.dir)
    library.write(library.merge(loaded, checkpoint.restore(file, loaded, path), task), out)
    typer.echo(out)


def unmerge(
    merged: Annotated[Path, typer.Argument(help="A base model that 'merge' made.")],
    exp: Exp,
    task: Task,
    out: Out,
) -> None:
    """Take a task's adapters out of a base model again.

    Example: adaptkit adapters unmerge exp/base_spk1 exp/lora --task spk1 --out exp/base_again
    """
    import logging

    from adaptkit.base import checkpoint as base_checkpoint
    from adaptkit.base import fold as library
    from adaptkit.model import checkpoint

    path = exp / "adapter.safetensors"
    file = checkpoint.load(path)
    narrowed = library.narrow(base_checkpoint.load(merged))
    restored = library.unmerge(narrowed, checkpoint.restore(file, narrowed, path), task)
    library.write(restored, out)
    is_same = restored.fingerprint == narrowed.fingerprint
    how = "bit for bit" if is_same else "up to rounding, so that adapters of the base model itself refuse it"
    logging.getLogger(__name__).info("%s: the base model %s, %s", out, narrowed.fingerprint, how)
    typer.echo(out)
