"""Run commands and corpus scripts with exit codes: 0 done, 1 failed with one message, 2 misuse (by typer)."""

import functools
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer

from adaptkit.errors import AdaptkitError


def run_script(command: Callable[..., Any]) -> None:
    """Run the function of a script such as `local/prepare.py` with the arguments of the command line."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    run(functools.partial(typer.run, command), Path(sys.argv[0]).name)


def set_up_messages() -> None:
    """Send log messages to stderr, with the time, and suppress the messages of other libraries."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger().handlers[0].addFilter(_is_named)
    warnings.filterwarnings("ignore", module=r"espnet2?\.")  # its use of torch does not concern users


def run(command: Callable[[], Any], name: str) -> None:
    """Run a command; an AdaptkitError, or a name that is not UTF-8, becomes one message and exit code 1."""
    try:
        command()
    except AdaptkitError as error:
        typer.echo(f"{name}: {error}", err=True)
        sys.exit(1)
    except UnicodeEncodeError as error:
        if error.encoding != "utf-8":  # of the terminal
            raise
        named = ascii(re.search(r'[^\s"]*[\ud800-\udfff][^\s"]*', error.object)[0])
        typer.echo(f"{name}: {named}: a name that is not UTF-8; rename the file or folder", err=True)
        sys.exit(1)
    except BrokenPipeError:  # the reader of a pipe, such as `head`, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except KeyboardInterrupt:
        typer.echo(
            f"{name}: interrupted; continue a training with --resume, or repeat the command",
            err=True,
        )
        sys.exit(130)


def _is_named(record: logging.LogRecord) -> bool:
    """Drop what ESPnet reports of its searches, by the root logger or its own, and requests; keep errors."""
    is_ours = record.name != "root" and not record.name.startswith(("espnet", "httpx"))
    return is_ours or record.levelno >= logging.ERROR
