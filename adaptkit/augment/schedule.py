"""Decide how a policy augments each utterance in each epoch of a run."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch

from adaptkit.augment.keyed_random import make_key, uniform
from adaptkit.augment.noise import NoiseBank
from adaptkit.augment.policy import Policy

_SPEED = 1  # number of the draw; see augment.specaugment


@dataclass(frozen=True)
class UtteranceAugmentation:
    """How one utterance is augmented in one epoch."""

    key: int  # for all random draws
    is_noisy: bool
    is_masked: bool
    speed: float = 1.0

    @property
    def changes_speech(self) -> bool:
        """Whether the speech itself is augmented, rather than its features."""
        return self.is_noisy or self.speed != 1


@dataclass(frozen=True)
class Augmentation:
    """A policy in one epoch of a run; only seed, epoch and utterance id determine the augmentation."""

    policy: Policy
    seed: int
    bank: NoiseBank | None
    epoch: int = 0
    speeds_of: Mapping[str, tuple[float, ...]] = field(default_factory=dict)  # if not all suit an utterance

    def choose(self, utt_id: str) -> UtteranceAugmentation:
        """Choose how an utterance is augmented."""
        key = make_key(self.seed, self.epoch, utt_id)
        is_noisy = float(uniform(torch.tensor([key]), [0])) < self.policy.noisy_share
        is_masked = self.policy.spec is not None and (self.policy.mix.masks_on == "all" or not is_noisy)
        speeds = self.speeds_of.get(utt_id, self.policy.speeds)
        index = int(float(uniform(torch.tensor([key]), [_SPEED])) * len(speeds)) if len(speeds) > 1 else 0
        return UtteranceAugmentation(key, is_noisy, is_masked, speeds[index])

    def in_epoch(self, epoch: int) -> "Augmentation":
        """Return the same policy in another epoch, counted from 0."""
        return replace(self, epoch=epoch)


def start(policy: Policy, seed: int, rate_hz: int) -> Augmentation | None:
    """Prepare a policy for speech at `rate_hz`; None if it changes nothing."""
    if policy.spec is None and policy.noise is None and policy.speeds == (1.0,):
        return None
    bank = NoiseBank(policy.noise, rate_hz) if policy.noise else None
    return Augmentation(policy, seed, bank)
