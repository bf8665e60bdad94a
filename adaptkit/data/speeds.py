"""Utterances played at several speeds in training: their lengths, and the speeds that suit each."""

import logging
import math
from collections.abc import Sequence
from dataclasses import replace

from adaptkit.base import padding
from adaptkit.data.dataset import Examples, frames_of
from adaptkit.data.short import find_short
from adaptkit.errors import ConfigError, counted, listed
from adaptkit.kaldi.audio import count_samples

_LOG = logging.getLogger(__name__)


def with_speeds(examples: Examples) -> Examples:
    """Prepare augmented examples for the speeds of their policy; a single speed of 1 changes nothing.

    Lengths become those at the slowest speed, so that batches fit at any speed. An utterance that would be
    too short for its text, or too long for the model, at some speeds is played only at the others, or at 1.
    """
    speeds, base = examples.augmentation.policy.speeds, examples.base
    if speeds == (1.0,):
        return examples
    if not padding.mixes_lengths(base.model):
        raise ConfigError(
            f"augment.speed: the encoder of {base.path} needs batches of equally long utterances, and speeds "
            "change their lengths in every epoch; set speed: null, and train on a copy made by "
            "'adaptkit data perturb'"
        )
    counts = examples.num_samples or count_samples(
        examples.data, rate_hz=base.rate_hz, allow_pipes=examples.allow_pipes
    )
    frames = {speed: frames_of(base, [math.ceil(count / speed) for count in counts]) for speed in speeds}
    suitable = _choose_speeds(examples, frames)
    restricted = {utt_id: own for utt_id, own in suitable.items() if own != speeds}
    if restricted:
        number = counted(len(restricted), "utterance")
        what = "too short for the text, or too long, at some speeds, and played at others"
        _LOG.warning("%s: %s %s: %s", examples.data.path, number, what, listed(restricted))
    own = examples.own_lengths or examples.lengths
    lengths = examples.lengths
    if base.padded_frames is None:
        slowest = frames_of(base, [math.ceil(count / min(speeds)) for count in counts])
        lengths = tuple(map(max, own, slowest))
    augmentation = replace(examples.augmentation, speeds_of=restricted)
    return replace(examples, augmentation=augmentation, lengths=lengths, own_lengths=own)


def _choose_speeds(examples: Examples, frames: dict[float, Sequence[int]]) -> dict[str, tuple[float, ...]]:
    """Return the speeds at which each utterance is neither too short nor too long."""
    most = examples.base.padded_frames
    ids = [u.utt_id for u in examples.data.utterances]
    unfit = {}
    for speed, lengths in frames.items():
        long = [] if most is None else [i for i, n in zip(ids, lengths, strict=True) if n > most]
        unfit[speed] = {*long, *(() if speed == 1 else find_short(examples, lengths))}
    return {i: tuple(s for s in frames if i not in unfit[s]) or (1.0,) for i in ids}
