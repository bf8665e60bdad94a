"""Utterances that are too short for an encoder, or for their text."""

import logging
from collections.abc import Collection, Sequence
from itertools import islice
from operator import eq

import numpy as np

from adaptkit.base import padding
from adaptkit.data.dataset import Examples
from adaptkit.errors import counted, listed
from adaptkit.kaldi.durations import is_stated

_LOG = logging.getLogger(__name__)


def too_short(examples: Examples) -> dict[str, str]:
    """Return the utterances that are too short for the encoder or for CTC in the loss, with the reason."""
    reasons = find_short(examples, examples.lengths)
    _confirm(examples, reasons)
    return reasons


def find_short(examples: Examples, lengths: Sequence[int]) -> dict[str, str]:
    """Return the utterances that would be too short with some lengths in feature frames, with the reason.

    CTC needs an encoder frame for each token and between equal ones; attention and transducers one in all.
    """
    reasons = {}
    base = examples.base
    encoded = {length: padding.encoder_frames(base.model.encoder, length) for length in set(lengths)}
    for row, (text, length) in enumerate(zip(examples.data.utterances.texts, lengths, strict=True)):
        frames, tokens = encoded[length], base.tokens.encode(text)
        repeats = sum(map(eq, tokens, islice(tokens, 1, None)))
        needed = len(tokens) + repeats if base.model.ctc_weight else 1
        if frames < max(1, needed):
            utt_id = examples.data.utterances.ids[row]
            of_text = f"{counted(len(tokens), 'token')}, {counted(repeats, 'repeat')}"
            reasons[utt_id] = f"{counted(frames, 'encoder frame')}, {of_text}"
    return reasons


def find_frameless(examples: Examples) -> list[str]:
    """Return the utterances without encoder frames, with a warning: they are recognised as silence."""
    encoder = examples.base.model.encoder
    frameless = {length for length in set(examples.lengths) if padding.encoder_frames(encoder, length) < 1}
    rows = [row for row, length in enumerate(examples.lengths) if length in frameless]
    short = list(examples.data.utterances.ids.take(np.array(rows, np.int64)))
    if short:
        _confirm(examples, short)
        _LOG.warning("%s: too short for the encoder, no words: %s", examples.data.path, listed(short))
    return short


def _confirm(examples: Examples, utt_ids: Collection[str]) -> None:
    """Read the utterances that would be left out by their utt2dur; one that is out of date is refused."""
    data = examples.data
    for index, utt_id in enumerate(data.utterances.ids if utt_ids and examples.taps is None else ()):
        if utt_id in utt_ids and is_stated(data, data.utterances[index]):
            examples[index]
