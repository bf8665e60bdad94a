"""The `adaptkit` command: every group under one name, and how errors leave it."""

import logging
import os
import sys
import warnings

import typer

from adaptkit.cli import base, bench, data, decode, feats, report, score, train
from adaptkit.errors import AdaptkitError

app = typer.Typer(
    name="adaptkit",
    help="Adapt ESPnet Conformer speech recognisers to many speakers and domains with small adapters.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
)
app.add_typer(data.app, name="data")
app.add_typer(base.app, name="base")
app.add_typer(bench.app, name="bench")
for module in (feats, train, decode, score, report):
    module.register(app)


def main() -> None:
    """Run a command; an AdaptkitError is one message and exit code 1, any other is our bug."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger().handlers[0].addFilter(_is_named)
    warnings.filterwarnings(
        "ignore", module=r"espnet2?\."
    )  # of its own use of torch, which users cannot mend
    try:
        app()
    except AdaptkitError as error:
        typer.echo(f"adaptkit: {error}", err=True)
        sys.exit(1)
    except BrokenPipeError:  # the reader of a pipe, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except KeyboardInterrupt:
        typer.echo("adaptkit: interrupted; the same command goes on where it stopped", err=True)
        sys.exit(130)


def _is_named(record: logging.LogRecord) -> bool:
    """Keep what modules log under their own names; ESPnet chats about its defaults through the root."""
    return record.name != "root" or record.levelno >= logging.ERROR
