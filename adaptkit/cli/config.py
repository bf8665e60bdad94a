"""`adaptkit config`: describe the keys of an experiment's yaml."""

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from adaptkit.cli.options import Command, new_group

if TYPE_CHECKING:
    from adaptkit.keys import Key

app = new_group("Describe the keys of an experiment's yaml.")


@app.callback()
def config() -> None:
    """Describe the keys of an experiment's yaml."""


@app.command(cls=Command)
def describe(
    name: Annotated[
        str,
        typer.Argument(
            metavar="SECTION|KEY",
            help="experiment, base, train, data, adapters, augment, search or all; or a key, as in train.lr.",
        ),
    ] = "all",
    as_json: Annotated[bool, typer.Option("--json", help="Print a json list.")] = False,
) -> None:
    """List the keys of a section, or one key, with types, ranges, defaults and help.

    Example: adaptkit config describe train.lr
    """
    from dataclasses import asdict

    from adaptkit.experiment_keys import find_keys

    keys = find_keys(name)
    if as_json:
        typer.echo(json.dumps([asdict(key) for key in keys], indent=1))
        return
    _print_table(keys)


def _print_table(keys: list["Key"]) -> None:
    """Print keys as a table, wrapped to the terminal; elsewhere, one line for each."""
    from adaptkit.tables import aligned

    has_kinds = any(key.kind for key in keys)
    header = ["key", *(["kind"] if has_kinds else []), "type", "default", "help"]
    kinds = [[key.kind] if has_kinds else [] for key in keys]
    rows = [
        [key.name, *kind, key.type, _format_default(key), key.help]
        for key, kind in zip(keys, kinds, strict=True)
    ]
    if not sys.stdout.isatty():
        typer.echo(aligned([header, *rows], left=len(header)))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(*header, box=None, pad_edge=False, header_style="bold")
    table.columns[0].no_wrap = True
    for row in rows:
        table.add_row(*row)
    Console(markup=False, highlight=False).print(table)


def _format_default(key: "Key") -> str:
    if key.is_required:
        return "required"
    return "" if isinstance(key.default, dict) and key.default else json.dumps(key.default)
