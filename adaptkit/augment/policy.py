"""Augmentation policies: speed, SpecAugment, noise and their mixture; read by the name or path of a yaml.

Park et al., SpecAugment on large scale datasets, 2020, arXiv:1912.05533, mix rather than stack: an utterance
is clean and masked with probability 0.8, otherwise noisy and not masked.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from adaptkit import config
from adaptkit.augment.noise import Noise
from adaptkit.augment.specaugment import SpecAugment
from adaptkit.config import Config, Share
from adaptkit.kaldi.perturb import FASTEST, SLOWEST, check_speeds

Speed = Annotated[float, Field(strict=True, ge=SLOWEST, le=FASTEST)]


class Mix(Config):
    """Which utterances are noisy in an epoch, and which are masked."""

    noisy: Share = Field(0.2, description="probability that an utterance is noisy")
    masks_on: Literal["clean", "all"] = Field(
        "clean", description="mask only the clean utterances, or also the noisy ones (stacking)"
    )


class Policy(Config):
    """How training utterances are augmented, with new random draws in every epoch."""

    spec: SpecAugment | None = Field(None, description="SpecAugment; null for none")
    noise: Noise | None = Field(None, description="noise and reverberation; null for none")
    speed: Annotated[tuple[Speed, ...], AfterValidator(check_speeds)] | None = Field(
        None,
        description="speeds, one of which each utterance gets before noise and masks, as [0.9, 1.0, 1.1] "
        "in Ko et al., 2015; null for none",
    )
    mix: Mix = Field(Mix(), description="how noise and SpecAugment are mixed; only with 'noise'")

    @model_validator(mode="after")
    def _mix_has_noise(self) -> "Policy":
        if self.noise is None and self.mix != Mix():
            raise ValueError("'mix' has no effect without 'noise'; set 'noise', or leave 'mix' out")
        return self

    @property
    def speeds(self) -> tuple[float, ...]:
        """The speeds; a single speed of 1 changes nothing."""
        return self.speed or (1.0,)

    @property
    def noisy_share(self) -> float:
        """The probability that an utterance is noisy."""
        return self.mix.noisy if self.noise else 0.0

    @property
    def masked_share(self) -> float:
        """The probability that an utterance is masked."""
        if not self.spec:
            return 0.0
        return 1.0 if self.mix.masks_on == "all" else 1.0 - self.noisy_share


def _read_any(content: object) -> object:
    """Validate a policy written out in a yaml; problems are reported with full keys."""
    if content is None or content == "own" or isinstance(content, Policy):
        return content
    if not isinstance(content, dict):
        raise ValueError("expected a policy, 'own' or null")
    return Policy.model_validate(content)


AnyPolicy = Annotated[Policy | Literal["own"] | None, BeforeValidator(_read_any)]


def read_policy(word: str | Path, overrides: Sequence[str] = ()) -> Policy:
    """Read a policy by its name in `conf/augment` (see `config.find_published`) or by its path."""
    return config.load(Policy, config.find_published("augment", word), overrides)


def name_of(word: str | Path) -> str:
    """Return the name of a policy from its name or path."""
    return Path(word).stem if config.is_path(word) else str(word)
