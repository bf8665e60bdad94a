"""Refusals of options that contradict each other, shared by commands."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import typer


def refuse_both(base: Path | None, model: str | None) -> None:
    """Refuse neither or both of a base model and a model with random weights."""
    if (base is None) == (model is None):
        raise typer.BadParameter("use either --base or --model")


def refuse_twice(
    overrides: Sequence[str] | None, given: Mapping[str, tuple[str, object]], setter: str = "--set"
) -> None:
    """Refuse `setter` of keys that other options set; `given` has these options and their values by key."""
    for word in overrides or ():
        key = word.partition("=")[0]
        option, value = given.get(key, ("", None))
        if value not in (None, False):
            raise typer.BadParameter(f"{setter} {word} and {option} both set {key}; use one of the two")
