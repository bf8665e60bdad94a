"""`adaptkit adapters`: the kinds of adapter there are, and what can be done with trained ones."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from adaptkit.cli import merge, prune

app = typer.Typer(help="List the kinds of adapter, prune and merge trained ones.", no_args_is_help=True)
for module in (prune, merge):
    module.register(app)


@app.command(name="list")
def list_kinds() -> None:
    """List the kinds of adapter with their numbers of parameters and papers.

    Example: adaptkit adapters list
    """
    from rich.console import Console
    from rich.table import Table

    from adaptkit.adapters import catalog
    from adaptkit.adapters.api import available

    table = Table("kind", "what it adds", "numbers", "paper", box=None, pad_edge=False)
    for info in map(catalog.describe, available()):
        table.add_row(info.kind, info.title, info.closed_form, info.cited)
    console = Console(width=None if sys.stdout.isatty() else 500, markup=False, highlight=False)
    console.print(table)


@app.command()
def show(
    kind: Annotated[str, typer.Argument(help="A kind, from the list.")],
    base: Annotated[Path | None, typer.Option(help="Folder of a base model, to count for it.")] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="An option: bottleneck=32.")
    ] = None,
) -> None:
    """Tell a kind's paper, equation, numbers of parameters and options, for a base model too.

    Example: adaptkit adapters show hra --base exp/base --set controller_width=128
    """
    from adaptkit.adapters import catalog

    info, entry = catalog.describe(kind), catalog.read(kind, overrides or [])
    parts = (info.title, info.papers, f"Provenance: {info.provenance}", info.equation)
    typer.echo("\n\n".join([*parts, f"Numbers: {info.numbers}", catalog.as_yaml(entry)]))
    if base is None:
        return
    from adaptkit.base import checkpoint

    cost = catalog.measure(entry, checkpoint.load(base).sites)
    rows = {
        "sites": ", ".join(f"{count} {name}" for name, count in cost.sites.items()),
        "per task": f"{cost.per_task:,}",
        "shared": f"{cost.shared:,}",
    }
    typer.echo(f"\nOn {base}:")
    for name, value in rows.items():
        typer.echo(f"{name:12} {value}")
