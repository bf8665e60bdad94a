"""Long utterances out of short ones, as of Kaldi's combine_short_segments.sh, but as recordings."""

import logging
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from adaptkit.errors import ConfigError, DataError, listed
from adaptkit.kaldi.audio import audio_folder, fit_full_scale, read_audio, write_audio
from adaptkit.kaldi.datadir import DataDir, Utterance

FADE_SEC = 0.005  # a fifth of a window of features

log = logging.getLogger(__name__)


def join(
    data: DataDir, *, path: Path, most_sec: float, rate_hz: int = 16000, allow_pipes: bool = False
) -> DataDir:
    """Join utterances of a speaker and task, in the order of their ids, into ones of at most `most_sec`.

    Every utterance is in one of them, and one longer than that stays alone. Texts are joined by a space; the
    id is that of the first with `-comb<number>`, as in Kaldi. The audio is written below `path`/audio; the
    tables are what `subset.save` writes, and until it does `path` is no data directory.
    """
    if not 0 < most_sec < math.inf:
        raise ConfigError(f"joined utterances of at most {most_sec:g} s cannot be; allow 15 s, say")
    path = Path(path)
    folder = audio_folder(path, data)
    (path / "wav.scp").unlink(missing_ok=True)
    joined, recordings, lowered = [], {}, []
    for utterances, speech in _join_all(data, round(most_sec * rate_hz), rate_hz, allow_pipes):
        utterance, fitting = describe(utterances), fit_full_scale(speech)
        if utterance.utt_id in recordings:
            raise DataError(f"{data.path}: two joined utterances would be {utterance.utt_id}; rename it")
        if fitting is not speech:
            lowered.append(utterance.utt_id)
        recordings[utterance.utt_id] = str(folder / f"{utterance.utt_id}.wav")
        write_audio(Path(recordings[utterance.utt_id]), fitting, rate_hz=rate_hz)
        joined.append(utterance)
    if lowered:
        log.info("%s: %d brought down to full scale: %s", path, len(lowered), listed(lowered, most=3))
    return DataDir(path, tuple(sorted(joined, key=lambda u: u.utt_id.encode())), recordings)


def describe(utterances: Sequence[Utterance]) -> Utterance:
    """Describe what utterances of one speaker and task are when joined, a recording of its own."""
    utt_id = utterances[0].utt_id + (f"-comb{len(utterances)}" if len(utterances) > 1 else "")
    text = " ".join(u.text for u in utterances)
    return replace(utterances[0], utt_id=utt_id, recording=utt_id, text=text, start_sec=0.0, end_sec=None)


def join_speech(parts: Sequence[Tensor], *, rate_hz: int) -> Tensor:
    """Join speech (N_i,) end to end without a click; one part alone stays as it is.

    Each part loses its mean, and fades within FADE_SEC where it meets another. A step is a click; a few of
    AN4's recordings have an offset of up to 1 % of full scale, ten times their background. It drifts, and hum
    jumps too, so that the mean alone would not do. The fades take 1 dB of the background around a seam.
    """
    if len(parts) == 1:
        return parts[0]
    joined = []
    for number, part in enumerate(parts):
        part = part - part.mean()
        ramp = _ramp(min(round(FADE_SEC * rate_hz), len(part) // 2)).to(part)
        if number > 0:
            part[: len(ramp)] *= ramp
        if number < len(parts) - 1:
            part[len(part) - len(ramp) :] *= ramp.flip(0)
        joined.append(part)
    return torch.cat(joined)


def _ramp(num_samples: int) -> Tensor:
    """Give a rise (N,) from 0 to 1, half a period of a cosine."""
    return 0.5 - 0.5 * torch.cos(torch.pi * (torch.arange(num_samples) + 0.5) / num_samples)


def _join_all(
    data: DataDir, most_samples: int, rate_hz: int, allow_pipes: bool
) -> Iterator[tuple[list[Utterance], Tensor]]:
    """Give each group of utterances that makes one, and its speech (N,)."""
    for sequence in _sequences(data):
        group: list[Utterance] = []
        parts: list[Tensor] = []
        for utterance in sequence:
            part = read_audio(
                data.recordings[utterance.recording],
                rate_hz=rate_hz,
                start_sec=utterance.start_sec,
                end_sec=utterance.end_sec,
                allow_pipes=allow_pipes,
            )
            if group and sum(map(len, parts)) + len(part) > most_samples:
                yield group, join_speech(parts, rate_hz=rate_hz)
                group, parts = [], []
            group.append(utterance)
            parts.append(part)
        yield group, join_speech(parts, rate_hz=rate_hz)


def _sequences(data: DataDir) -> list[list[Utterance]]:
    """Give the utterances of each speaker and task, in their order."""
    sequences = defaultdict(list)
    for utterance in data.utterances:
        sequences[utterance.speaker, utterance.task].append(utterance)
    return list(sequences.values())
