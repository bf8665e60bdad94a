"""Exceptions for problems outside adaptkit's own code: data, configuration, model files and runs.

    AdaptkitError            shown as one message, exit code 1, never a traceback
    ├── DataError            a corpus or features on disk
    ├── ConfigError          an experiment's yaml or --set
    ├── CheckpointError      a base model, an adapter file or a training state
    ├── TrainingError        a training run that cannot continue
    └── ScoringError         references and hypotheses that do not match

A message says where, what is wrong (with the value seen) and how to fix it. Several problems are one message.
"""

import difflib
import re
from collections.abc import Iterable


class AdaptkitError(Exception):
    """An error in what adaptkit was given; its text is the whole message shown to the user."""


class DataError(AdaptkitError):
    """A corpus, table, recording or feature archive that cannot be used."""


class ConfigError(AdaptkitError):
    """A configuration that cannot be used."""


class CheckpointError(AdaptkitError):
    """A base model, adapter file or training state that cannot be used."""


class TrainingError(AdaptkitError):
    """A training run that cannot continue."""


class ScoringError(AdaptkitError):
    """References and hypotheses that cannot be scored together."""


def nearest(word: str, known: Iterable[str]) -> str:
    """Return a suggestion of the closest known word, to end a message; empty if none is close.

    >>> nearest("bottelneck", ["bottleneck", "kind"])
    "; did you mean 'bottleneck'?"
    """
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean '{near[0]}'?" if near else ""


def shorten(text: str, most: int = 300) -> str:
    """Cut the middle out of a text of more than `most` characters; a remedy stands at the end.

    >>> shorten("abcdefghi", most=6)
    'abc...ghi'
    """
    half = most // 2
    return text if len(text) <= most else f"{text[:half]}...{text[-half:]}"


def counted(number: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun, for a message; the plural ends in s unless it is given.

    >>> counted(1, "utterance"), counted(2, "entry", "entries")
    ('1 utterance', '2 entries')
    """
    return f"{number} {noun if number == 1 else plural or f'{noun}s'}"


def shell_word(value: object) -> str:
    r"""Return a path or name as one word of a shell command in a message, whatever characters it has.

    >>> print(shell_word("my data/ann's"), shell_word("data/train"))
    my\ data/ann\'s data/train
    """
    return re.sub(r"([^\w@%+=:,./-])", r"\\\1", str(value))


def listed(items: Iterable[str], most: int = 10) -> str:
    """Join items for a message; those beyond `most` are only counted, and long ones are cut.

    >>> listed("abc", most=2)
    'a, b and 1 more'
    """
    items = list(map(shorten, items))
    if len(items) <= most:
        return ", ".join(items)
    return f"{', '.join(items[:most])} and {len(items) - most} more"
