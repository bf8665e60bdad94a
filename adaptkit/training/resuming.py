"""What a resumed run must have in common with the one that was stopped: settings, and what sets hold."""

import hashlib
import json
from collections.abc import Iterator
from typing import Any

from adaptkit import config
from adaptkit.data.dataset import Examples
from adaptkit.experiment import Experiment

_CHANGES_NOTHING = ("num_workers", "save_every_steps")  # in what a run makes, so a resumed one may differ


def identify(settings: Experiment, *sections: str) -> dict[str, Any]:
    """Give the full keys and values of a configuration that a resumed run must share."""
    resolved = config.dump(settings)
    leaves = dict(_leaves({section: resolved[section] for section in sections}))
    return {key: value for key, value in leaves.items() if key.rpartition(".")[2] not in _CHANGES_NOTHING}


def _leaves(content: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(content, dict | list):
        yield key, content
        return
    parts = content.items() if isinstance(content, dict) else enumerate(content)
    for name, part in parts:
        yield from _leaves(part, f"{key}.{name}" if key else str(name))


def describe_contents(train: Examples, valid: Examples | None) -> dict[str, str]:
    """Give digests of the utterances, since the same folders may hold others by now."""
    sets = {"training set": train, "validation set": valid}
    noise = train.augmentation.bank if train.augmentation else None
    described = {
        name: [
            (u.utt_id, u.task, u.text, length) for u, length in zip(e.data.utterances, e.lengths, strict=True)
        ]
        for name, e in sets.items()
        if e is not None
    }
    if noise:
        described["noise recordings"] = noise.describe()
    return {name: digest(content) for name, content in described.items()}


def digest(content: object) -> str:
    """Give a digest of anything that json can hold or str tells."""
    return hashlib.blake2b(
        json.dumps(content, sort_keys=True, default=str).encode(), digest_size=8
    ).hexdigest()
