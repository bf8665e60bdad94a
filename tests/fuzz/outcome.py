"""What one input did, and how that is found out."""

import traceback
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from typer.testing import CliRunner

from adaptkit.errors import AdaptkitError

LONGEST_MESSAGE = 4000  # characters; a cause is named once, with a few examples


class Kind(Enum):
    """The classes of outcomes; a product of use has none of the last three."""

    ERROR = "clear error"
    RIGHT = "right result"
    TRACEBACK = "traceback"
    HANG = "hang"
    SILENT = "silent"

    @property
    def is_fault(self) -> bool:
        """Whether the outcome is a fault of adaptkit."""
        return self in (Kind.TRACEBACK, Kind.HANG, Kind.SILENT)


@dataclass(frozen=True)
class Outcome:
    """The class of an outcome, what the input was, and the message or the reason."""

    kind: Kind
    what: str
    detail: str = ""


class Silent(Exception):
    """A wrong result, or a remedy that does not work, without a word."""


def classify(what: str, run: Callable[[], None]) -> Outcome:
    """Run one input; an AdaptkitError is a clear error if it is short and says something."""
    try:
        run()
    except AdaptkitError as error:
        message = str(error)
        if not message.strip() or len(message) > LONGEST_MESSAGE:
            return Outcome(Kind.SILENT, what, f"a message of {len(message)} characters: {message[:200]}")
        return Outcome(Kind.ERROR, what, message)
    except Silent as error:
        return Outcome(Kind.SILENT, what, str(error))
    except Exception:
        return Outcome(Kind.TRACEBACK, what, traceback.format_exc())
    return Outcome(Kind.RIGHT, what)


def command(*words: object) -> str:
    """Run a command in this process and return its stdout; raise what a user would see.

    Exit code 1 is a clear error if it comes with a message. Exit code 2, misuse, is a fault of the caller.
    """
    from adaptkit.cli.main import app

    done = CliRunner(env={"COLUMNS": "200"}).invoke(app, [str(word) for word in words], prog_name="adaptkit")
    if isinstance(done.exception, SystemExit) or done.exception is None:
        if done.exit_code == 0:
            return done.stdout
        message = (done.stderr + done.stdout).strip()
        if done.exit_code == 2:
            raise RuntimeError(message)
        if not message:
            raise Silent(f"exit code {done.exit_code} without a message: {words}")
        raise AdaptkitError(message[:LONGEST_MESSAGE])
    raise done.exception
