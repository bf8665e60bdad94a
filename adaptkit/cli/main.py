"""The `adaptkit` command: every group under one name, and how errors leave it."""

import logging
import warnings

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
from adaptkit.cli.script import run

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
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger().handlers[0].addFilter(_is_named)
    warnings.filterwarnings("ignore", module=r"espnet2?\.")  # its own use of torch, no matter of users
    run(app, "adaptkit")


def _is_named(record: logging.LogRecord) -> bool:
    """Keep what modules log under their own names; ESPnet chats about its defaults through the root."""
    return record.name != "root" or record.levelno >= logging.ERROR
