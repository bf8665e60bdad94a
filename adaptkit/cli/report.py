"""`adaptkit report`: compare experiments in a table or page."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from adaptkit.cli.options import Command, ReportFormat

if TYPE_CHECKING:
    from adaptkit.report.runs import Comparison


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command(cls=Command)(report)


def report(
    experiments: Annotated[
        list[Path],
        typer.Argument(metavar="EXP...", help="Folders of scored runs; runs of one name form a row."),
    ],
    test_sets: Annotated[
        list[str] | None,
        typer.Option(
            "--test-set", metavar="NAME", help="A decoded set to report; repeat for a column per set."
        ),
    ] = None,
    minus: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="An experiment to compare with; repeatable.", show_default="none"),
    ] = None,
    form: Annotated[ReportFormat, typer.Option("--format", help="The output format.")] = ReportFormat.table,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write to this file instead of printing.")
    ] = None,
) -> None:
    """Compare the error rates, parameters and cost of experiments with a baseline.

    Example: adaptkit report exp/none exp/residual/1 exp/residual/2 --minus none --format md
    """
    from adaptkit.files import write_text
    from adaptkit.report import runs

    test_sets = list(dict.fromkeys(test_sets or ()))
    if len(test_sets) > 1:
        if form is ReportFormat.html:
            raise typer.BadParameter("html needs a single --test-set", param_hint="--format")
        written = _render_sets(form, experiments, test_sets, minus or ())
    else:
        compared = runs.load(experiments, test_sets[0] if test_sets else None, minus=minus or ())
        if form is ReportFormat.table and out is None and sys.stdout.isatty():
            _print_report(compared)
            return
        written = _render(form, compared)
    if out:
        write_text(out, written + "\n")
    else:
        typer.echo(written)


def _render(form: ReportFormat, compared: "Comparison") -> str:
    """Format a report on one set."""
    from adaptkit.report import summary
    from adaptkit.report.csv import as_csv
    from adaptkit.report.latex import as_latex

    if form is ReportFormat.html:
        from adaptkit.report.html import render_page

        return render_page(compared)
    forms = {"table": summary.as_table, "md": summary.as_markdown, "json": summary.as_json}
    return (forms | {"csv": as_csv, "latex": as_latex})[form.value](compared)


def _render_sets(
    form: ReportFormat, experiments: Sequence[Path], test_sets: Sequence[str], minus: Sequence[str]
) -> str:
    """Format a report on several sets."""
    from adaptkit.report import by_set
    from adaptkit.report.csv import sets_as_csv
    from adaptkit.report.latex import sets_as_latex

    forms = {"table": by_set.as_table, "md": by_set.as_markdown, "json": by_set.as_json}
    forms |= {"csv": sets_as_csv, "latex": sets_as_latex}
    return forms[form.value](by_set.load(experiments, test_sets, minus=minus))


def _print_report(compared: "Comparison") -> None:
    """Print the table of experiments, their notes, and the tables of groups on a terminal."""
    from adaptkit.report import summary
    from adaptkit.report.notes import list_notes, list_warnings
    from adaptkit.report.sections import list_group_sections

    _print_table(summary.as_cells(compared))
    for note in [*list_notes(compared.results), *list_warnings(compared)]:
        typer.echo(note)
    for section in list_group_sections(compared):
        typer.echo(section.title)
        _print_table(section.rows)


def _print_table(rows: Sequence[Sequence[tuple[str, str]]]) -> None:
    """Print cells on a terminal, with small print below each figure."""
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
