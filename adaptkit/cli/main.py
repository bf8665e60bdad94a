"""The `adaptkit` command: every group under one name, and how errors leave it."""

import typer

from adaptkit.cli import (
    adapters,
    augment,
    base,
    bench,
    copies,
    data,
    decode,
    feats,
    report,
    score,
    serve,
    submodels,
    train,
)
from adaptkit.cli.script import run, set_up_messages

app = typer.Typer(
    name="adaptkit",
    help="Adapt ESPnet Conformer speech recognisers to many speakers and domains with small adapters.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
)
augment.app.command(name="copy")(copies.copy)
app.add_typer(data.app, name="data")
app.add_typer(augment.app, name="augment")
app.add_typer(base.app, name="base")
app.add_typer(adapters.app, name="adapters")
app.add_typer(submodels.app, name="submodels")
app.add_typer(bench.app, name="bench")
for module in (feats, train, decode, score, report, serve):
    module.register(app)


def main() -> None:
    """Run a command with its messages on stderr."""
    set_up_messages()
    run(app, "adaptkit")
