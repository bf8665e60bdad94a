"""Join short utterances into long ones, like Kaldi's combine_short_segments.sh, but as recordings."""

import logging
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from adaptkit import locks
from adaptkit.errors import ConfigError, DataError, listed
from adaptkit.files import remove
from adaptkit.kaldi.audio import audio_file, audio_folder, fit_full_scale, read_audio, write_audio
from adaptkit.kaldi.datadir import DataDir, Utterance

FADE_SEC = 0.005  # a fifth of a feature window

log = logging.getLogger(__name__)


def join(
    data: DataDir, *, path: Path, most_sec: float, rate_hz: int = 16000, allow_pipes: bool = False
) -> DataDir:
    """Join utterances of a speaker, task and group into ones of at most `most_sec`, in the order of ids.

    Every utterance is used once; longer ones stay alone. Texts are joined by a space; the id is that of the
    first utterance with `-comb<number>`, as in Kaldi. The audio is written to `path`/audio; the tables are
    written by `subset.save`, and until then `path` is not a data directory.
    """
    if not 0 < most_sec < math.inf:
        raise ConfigError(f"joined utterances cannot have at most {most_sec:g} s; try 15 s")
    path = Path(path)
    folder = audio_folder(path, data)
    with locks.hold(path, parts=(folder.name,)):
        remove(path / "wav.scp")
        joined, recordings, lowered = [], {}, []
        for utterances, speech in _join_all(data, round(most_sec * rate_hz), rate_hz, allow_pipes):
            utterance, fitting = merge_utterances(utterances), fit_full_scale(speech)
            if utterance.utt_id in recordings:
                problem = f"two joined utterances would have the id {utterance.utt_id}"
                raise DataError(f"{data.path}: {problem}; rename the first utterance of one")
            if fitting is not speech:
                lowered.append(utterance.utt_id)
            recordings[utterance.utt_id] = str(audio_file(folder, utterance.utt_id))
            write_audio(Path(recordings[utterance.utt_id]), fitting, rate_hz=rate_hz)
            joined.append(utterance)
    if lowered:
        log.info("%s: %d scaled down to full scale: %s", path, len(lowered), listed(lowered, most=3))
    return DataDir(path, tuple(sorted(joined, key=lambda u: u.utt_id.encode())), recordings)


def merge_utterances(utterances: Sequence[Utterance]) -> Utterance:
    """Return utterances of one speaker, task and group as a single one, with a recording of its own."""
    utt_id = utterances[0].utt_id + (f"-comb{len(utterances)}" if len(utterances) > 1 else "")
    text = " ".join(u.text for u in utterances if u.text)
    return replace(utterances[0], utt_id=utt_id, recording=utt_id, text=text, start_sec=0.0, end_sec=None)


def join_speech(parts: Sequence[Tensor], *, rate_hz: int) -> Tensor:
    """Concatenate speech (N_i,) without clicks; a single part stays unchanged.

    The mean of each part is removed, and the part fades over FADE_SEC where it meets another, since a step is
    a click. A few of AN4's recordings have an offset of up to 1 % of full scale, ten times their background
    noise; since it drifts, and since hum also causes steps, removing the mean is not enough. The fades lower
    the background noise around a joint by 1 dB.
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
    """Return a fade-in (N,) from 0 to 1, half a period of a cosine."""
    return 0.5 - 0.5 * torch.cos(torch.pi * (torch.arange(num_samples) + 0.5) / num_samples)


def _join_all(
    data: DataDir, most_samples: int, rate_hz: int, allow_pipes: bool
) -> Iterator[tuple[list[Utterance], Tensor]]:
    """Yield each group of utterances to be joined, and its speech (N,)."""
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
    """Return the utterances of each speaker, task and group, in order."""
    sequences = defaultdict(list)
    for utterance in data.utterances:
        sequences[utterance.speaker, utterance.task, utterance.group].append(utterance)
    return list(sequences.values())
