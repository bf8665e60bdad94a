"""What adaptkit raises when something outside its own code is wrong.

    AdaptkitError            shown as one message, exit code 1, never a traceback
    ├── DataError            a corpus or features on disk
    ├── ConfigError          an experiment's yaml, or --set
    ├── CheckpointError      a base model, an adapter file or a training state
    ├── TrainingError        a run that cannot go on
    └── ScoringError         references and hypotheses that do not fit together

A message says where, what, and what would mend it, with the value seen. A list of problems is one message.
"""

import difflib
from collections.abc import Iterable


class AdaptkitError(Exception):
    """A mistake in what adaptkit was given; its text is the whole message for the user."""


class DataError(AdaptkitError):
    """A corpus, table, recording or feature archive that cannot be used."""


class ConfigError(AdaptkitError):
    """A configuration that cannot be used."""


class CheckpointError(AdaptkitError):
    """A base model, adapter file or training state that cannot be used."""


class TrainingError(AdaptkitError):
    """A training run that cannot go on."""


class ScoringError(AdaptkitError):
    """References and hypotheses that cannot be scored together."""


def nearest(word: str, known: Iterable[str]) -> str:
    """Say which known word was probably meant, as the tail of a message; empty when none is near.

    >>> nearest("bottelneck", ["bottleneck", "kind"])
    "; did you mean 'bottleneck'?"
    """
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean '{near[0]}'?" if near else ""


def listed(items: Iterable[str], most: int = 10) -> str:
    """Join items for a message, counting what is left out beyond `most`.

    >>> listed("abc", most=2)
    'a, b and 1 more'
    """
    items = list(items)
    if len(items) <= most:
        return ", ".join(items)
    return f"{', '.join(items[:most])} and {len(items) - most} more"
