"""Recognise token lists damaged by old caches, and repair them if the archive holds the original list.

espnet_model_zoo up to 0.1.7 replaced every string of a config.yaml that equals a path in the archive,
even a token: `exp` became `/home/user/.cache/espnet/0123abcd/exp`, which no text contains.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

from adaptkit.base.archive import ModelFiles
from adaptkit.errors import CheckpointError, listed
from adaptkit.files import read_text, require_regular, split_lines

_LOG = logging.getLogger(__name__)
_PATH = re.compile(r"(/[^/\s\u2581]+){2,}|[^/\s\u2581]+(/[^/\s\u2581]+)*/[^/\s\u2581]+/(exp|data)")


def mend_tokens(config: Mapping[str, Any], files: ModelFiles) -> dict[str, Any]:
    """Return a configuration with its damaged tokens replaced from a tokens.txt; without one, refuse it.

    >>> [bool(_PATH.fullmatch(token)) for token in ("/home/me/exp", "cache/0f/exp", "/", "/a", "and/or")]
    [True, True, False, False, False]
    """
    tokens = config["token_list"]
    damaged = [index for index, token in enumerate(tokens) if _PATH.fullmatch(token)]
    if not damaged:
        return dict(config)
    mended = {found for found in map(tuple, _read_lists(files)) if _differs_only(found, tokens, damaged)}
    named = listed(f"token {index} is {tokens[index]}" for index in damaged)
    if len(mended) != 1:
        raise CheckpointError(
            f"{files.config}: {named}: paths that espnet_model_zoo up to 0.1.7 wrote over tokens; use the "
            "released archive, or its tag: 'adaptkit base import user/name --download --out DIR'"
        )
    _LOG.warning("%s: %s: damaged by an old espnet_model_zoo; repaired from tokens.txt", files.config, named)
    return {**config, "token_list": list(mended.pop())}


def _read_lists(files: ModelFiles) -> list[list[str]]:
    found = []
    for path in sorted(files.root.glob("data/**/tokens.txt")):
        require_regular(path)
        found.append(split_lines(read_text(path)))
    return found


def _differs_only(found: Sequence[str], tokens: Sequence[str], places: Sequence[int]) -> bool:
    """Whether two lists differ only in some places, where the first has no path."""
    if len(found) != len(tokens) or any(_PATH.fullmatch(found[index]) for index in places):
        return False
    return all(
        one == other
        for index, (one, other) in enumerate(zip(found, tokens, strict=True))
        if index not in set(places)
    )
