"""Sets to train on and to validate with: what is left out of them, and how they are augmented."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Literal

from adaptkit import tokens as text_tokens
from adaptkit.augment import schedule
from adaptkit.augment.policy import Policy
from adaptkit.augment.specaugment import SpecAugment
from adaptkit.base import specaug
from adaptkit.base.checkpoint import BaseModel
from adaptkit.data.dataset import Examples, read_examples, refuse_other_features, too_short
from adaptkit.errors import DataError, listed

_LOG = logging.getLogger(__name__)
_MOST_SKIPPED = 0.05  # of the utterances


def read_set(path: Path, base: BaseModel, *, allow_pipes: bool = False) -> Examples:
    """Read a set, every task left to the base so far, without the utterances too short to learn from."""
    examples = read_examples(path, base, allow_pipes=allow_pipes)
    data = examples.data
    text_tokens.refuse_unknown(base.tokens, {u.utt_id: u.text for u in data.utterances}, str(path))
    reasons = too_short(examples)
    if not reasons:
        return examples
    first = listed([f"{utt_id} ({reason})" for utt_id, reason in reasons.items()], 5)
    message = f"{path}: {len(reasons)} of {len(examples)} utterances are too short for their text: {first}"
    if len(reasons) > _MOST_SKIPPED * len(examples):
        raise DataError(f"{message}; more than {_MOST_SKIPPED:.0%} is an error: check the segments and texts")
    _LOG.warning("%s; they are left out", message)
    return examples.without(reasons)


def augmented(train: Examples, policy: Policy | Literal["own"] | None, seed: int) -> Examples:
    """Augment a training set by a policy, or by the SpecAugment of the base model's own yaml.

    Noisy features must differ from the extracted ones in nothing but the noise, so those are looked at.
    """
    if policy == "own":
        policy = Policy(spec=specaug.translate(train.base.config))
        described = policy.spec.model_dump(exclude_defaults=True) if policy.spec else "none"
        _LOG.info("SpecAugment of the model's own yaml: %s", described)
    working = schedule.start(policy, seed, train.base.rate_hz) if policy else None
    train = replace(train, augmentation=working)
    if working and working.bank:
        refuse_other_features(train)
    if working and policy.spec and policy.spec.fill == "zero" and train.base.model.normalize is None:
        _LOG.warning(
            "the base model does not normalise features, so masks of zeros are not their mean; fill: mean is"
        )
    return train


def spec_of(train: Examples) -> SpecAugment | None:
    """Give the masks of a training set."""
    return train.augmentation.policy.spec if train.augmentation else None
