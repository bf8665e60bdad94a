"""A policy at work in a run: what it does to an utterance in an epoch."""

from dataclasses import dataclass, replace

import torch

from adaptkit.augment.keyed_random import make_key, uniform
from adaptkit.augment.noise import NoiseBank
from adaptkit.augment.policy import Policy


@dataclass(frozen=True)
class Chosen:
    """What is done to one utterance in one epoch."""

    key: int  # of everything that is drawn for it
    is_noisy: bool
    is_masked: bool


@dataclass(frozen=True)
class Augmentation:
    """A policy in one epoch of the run with a seed; what it does to an utterance depends on nothing else."""

    policy: Policy
    seed: int
    bank: NoiseBank | None
    epoch: int = 0

    def choose(self, utt_id: str) -> Chosen:
        """Choose what is done to an utterance."""
        key = make_key(self.seed, self.epoch, utt_id)
        is_noisy = float(uniform(torch.tensor([key]), [0])) < self.policy.noisy_share
        is_masked = self.policy.spec is not None and (self.policy.mix.masks_on == "all" or not is_noisy)
        return Chosen(key, is_noisy, is_masked)

    def in_epoch(self, epoch: int) -> "Augmentation":
        """Give the same policy in another epoch, counted from 0."""
        return replace(self, epoch=epoch)


def start(policy: Policy, seed: int, rate_hz: int) -> Augmentation | None:
    """Set a policy to work on speech of a rate; None where it leaves everything as it is."""
    if policy.spec is None and policy.noise is None:
        return None
    bank = NoiseBank(policy.noise, rate_hz) if policy.noise else None
    return Augmentation(policy, seed, bank)
