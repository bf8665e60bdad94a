"""How commands and corpora's own scripts leave: 0 done, 1 cannot, with one message; 2 misuse is typer's."""

import functools
import logging
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer

from adaptkit.errors import AdaptkitError


def run_script(command: Callable[..., Any]) -> None:
    """Run the function of a script, `local/prepare.py` say, with the words of the command line."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    run(functools.partial(typer.run, command), Path(sys.argv[0]).name)


def set_up_messages() -> None:
    """Let messages of a command go to stderr, with the time and without other libraries' chat."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger().handlers[0].addFilter(_is_named)
    warnings.filterwarnings("ignore", module=r"espnet2?\.")  # its own use of torch, no matter of users


def run(command: Callable[[], Any], name: str) -> None:
    """Run a command; an AdaptkitError is one message and exit code 1, any other is our bug and shows."""
    try:
        command()
    except AdaptkitError as error:
        typer.echo(f"{name}: {error}", err=True)
        sys.exit(1)
    except BrokenPipeError:  # the reader of a pipe, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except KeyboardInterrupt:
        typer.echo(
            f"{name}: interrupted; a training goes on with --resume, other commands with the same words",
            err=True,
        )
        sys.exit(130)


def _is_named(record: logging.LogRecord) -> bool:
    """Keep what modules log under their own names; ESPnet chats about its defaults through the root."""
    return record.name != "root" or record.levelno >= logging.ERROR
