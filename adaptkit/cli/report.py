"""`adaptkit report`: compare experiments in one table or page."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

Form = Literal["table", "md", "json", "html"]


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command(name="report")(report)


def report(
    experiments: Annotated[
        list[Path], typer.Argument(help="Folders of runs, scored; seeds of one name are one row.")
    ],
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", help="The decoded set, where there are several; repeated, a column for each."),
    ] = None,
    minus: Annotated[
        list[str] | None, typer.Option(help="Experiment to compare with, by name; may be repeated.")
    ] = None,
    form: Annotated[Form, typer.Option("--format", help="What to make.")] = "table",
    output: Annotated[Path | None, typer.Option(help="Write to this file instead of printing.")] = None,
) -> None:
    """Compare experiments by error rates, parameters and cost, against the one without adapters.

    Example: adaptkit report exp/none exp/residual/1 exp/residual/2 --minus none --format md
    """
    from adaptkit.files import write_text
    from adaptkit.report import by_set, runs
    from adaptkit.report import summary as reporting

    library = reporting
    if sets and len(sets) > 1:
        if form == "html":
            raise typer.BadParameter("a page is of one --set", param_hint="--format")
        library, compared = by_set, by_set.load(experiments, sets, minus=minus or ())
    else:
        compared = runs.load(experiments, sets[0] if sets else None, minus=minus or ())
        if form == "table" and output is None and sys.stdout.isatty():
            _print_table(reporting.as_cells(compared))
            return
    if form == "html":
        from adaptkit.report.html import render
    else:
        render = {"table": library.as_table, "md": library.as_markdown, "json": library.as_json}[form]
    if output:
        write_text(output, render(compared) + "\n")
    else:
        typer.echo(render(compared))


def _print_table(rows: Sequence[Sequence[tuple[str, str]]]) -> None:
    """Print cells on a terminal, the small print of each below its figure."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE)
    for index, cell in enumerate(rows[0]):
        table.add_column("\n".join(cell).rstrip(), justify="right" if index else "left")
    for row in rows[1:]:
        table.add_row(
            *(Text.assemble(figure, (f"\n{small}", "dim")) if small else figure for figure, small in row)
        )
    Console().print(table)
