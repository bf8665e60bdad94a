"""The utterances of a data directory as input of a base model, with tokens and tasks."""

import functools
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from adaptkit.adapters.api import AdapterStack
from adaptkit.adapters.per_task import SHARED
from adaptkit.augment import corpus
from adaptkit.augment.schedule import Augmentation, UtteranceAugmentation
from adaptkit.base import padding
from adaptkit.base.checkpoint import BaseModel
from adaptkit.data.misfit import refuse_misfit
from adaptkit.errors import CheckpointError, DataError, counted, listed, nearest, shell_word
from adaptkit.features.archive import load_feats
from adaptkit.features.fbank import FbankOptions, log_mel
from adaptkit.kaldi import datadir
from adaptkit.kaldi.audio import count_samples, read_audio
from adaptkit.kaldi.datadir import DataDir, Utterance
from adaptkit.kaldi.durations import is_stated
from adaptkit.kaldi.perturb import at_speed

_LOG = logging.getLogger(__name__)
BASE_TASK = -1  # the task id of a row for the base model alone
BASE_NAME = "(base)"  # stands for the base model in place of a task's name
CACHE_REMEDY = "run the training again, which rewrites the cache of encoder outputs"
Group = tuple[int, ...]
_SAME_FEATURES = 0.05  # largest difference of log-mel values; archives may be compressed


@dataclass(frozen=True)
class Example:
    """One utterance as input of a base model."""

    utterance: Utterance
    task_id: int
    inputs: Tensor  # features (T, F), speech (N,) or encoder outputs
    tokens: Tensor  # (L,)
    chosen: UtteranceAugmentation | None = None  # its augmentation in this epoch
    inner_ctc: float | None = None  # its cached loss of intermediate CTC


@dataclass(frozen=True)
class Examples(Dataset):
    """The utterances of a data directory as input of a base model, each with its task id."""

    data: DataDir
    base: BaseModel
    lengths: tuple[int, ...]  # feature frames of each utterance as read by the model, at the slowest speed
    task_ids: Mapping[str, int]  # task name: id
    allow_pipes: bool = False
    taps: Mapping[str, str] | None = None  # locations of cached encoder outputs, used instead of the input
    augmentation: Augmentation | None = None
    inner_ctc: Mapping[str, float] | None = None  # cached losses of intermediate CTC
    own_lengths: tuple[int, ...] | None = None  # frames of the speech itself; None if these are `lengths`
    num_samples: tuple[int, ...] | None = None  # of the speech, where its headers have been read

    @property
    def audio_sec(self) -> float:
        """The duration of all utterances in seconds."""
        return sum(self.own_lengths or self.lengths) * self.base.frame_shift_ms / 1000

    def __len__(self) -> int:
        return len(self.data.utterances)

    def __getitem__(self, index: int) -> Example:
        utterance = self.data.utterances[index]
        tokens = torch.tensor(self.base.tokens.encode(utterance.text), dtype=torch.long)
        chosen = self.augmentation.choose(utterance.utt_id) if self.augmentation else None
        own_length = (self.own_lengths or self.lengths)[index]
        if chosen is not None and chosen.changes_speech:
            inputs = self._load_changed(utterance, chosen, own_length)
        else:
            inputs = self._load(utterance, own_length)
        inner = self.inner_ctc and self.inner_ctc[utterance.utt_id]
        return Example(utterance, self.task_ids[utterance.task], inputs, tokens, chosen, inner)

    def in_epoch(self, epoch: int) -> "Examples":
        """Return the examples with the augmentation of an epoch."""
        own = self.augmentation
        return self if own is None else replace(self, augmentation=own.in_epoch(epoch))

    def groups(self, adapters: AdapterStack | None) -> list[Group]:
        """Return a value per utterance; utterances with different values may not share a batch.

        Values differ between tasks that change weights of the encoder differently, since each needs its own
        pass, and between lengths if the model's blocks of time frames depend on the padded length.
        """
        mixes = padding.mixes_lengths(self.base.model)
        is_mixed = adapters is None or adapters.mixes_tasks
        tasks = {name: () if is_mixed else adapters.group(task) for name, task in self.task_ids.items()}
        names = self.data.utterances.tasks
        if mixes:
            tasks = {name: (*group, 0) for name, group in tasks.items()}
            return [tasks[name] for name in names]
        return [(*tasks[name], length) for name, length in zip(names, self.lengths, strict=True)]

    def without(self, utt_ids: Collection[str]) -> "Examples":
        """Return the examples without some utterances."""
        kept = [row for row, utt_id in enumerate(self.data.utterances.ids) if utt_id not in utt_ids]
        data = replace(self.data, utterances=self.data.utterances.take(np.array(kept, np.int64)))
        lengths, own, samples = (
            each and tuple(each[index] for index in kept)
            for each in (self.lengths, self.own_lengths, self.num_samples)
        )
        return replace(self, data=data, lengths=lengths, own_lengths=own, num_samples=samples)

    def _load(self, utterance: Utterance, own_length: int) -> Tensor:
        if self.taps is not None:
            return load_feats(self.taps[utterance.utt_id], CACHE_REMEDY)
        if self.base.features is not None and self.data.feats is not None:
            return load_feats(self.data.feats[utterance.utt_id])
        return self._make_inputs(self._read_speech(utterance, own_length))

    def _load_changed(self, utterance: Utterance, chosen: UtteranceAugmentation, own_length: int) -> Tensor:
        """Load an utterance at another speed, with noise, or both."""
        try:
            speech = at_speed(self._read_speech(utterance, own_length), chosen.speed)
            if not chosen.is_noisy:
                return self._make_inputs(speech)
            made = self.augmentation.bank.perturb(speech, chosen.key)
        except DataError as error:
            what = "noise" if chosen.is_noisy else f"speed {chosen.speed:g}"
            raise DataError(f"{self.data.path}: {what} on {utterance.utt_id}: {error}") from error
        if not made.noise:
            _warn_of_silence(self.data.path, utterance.utt_id)
        return self._make_inputs(made.speech)

    def _make_inputs(self, speech: Tensor) -> Tensor:
        return (
            self.base.preprocessor.scale(speech) if self.base.features is None else self._make_feats(speech)
        )

    def _make_feats(self, speech: Tensor) -> Tensor:
        return log_mel(speech, FbankOptions.from_dict(self.base.features))

    def _refuse_stale(self, utterance: Utterance, speech: Tensor, length: int) -> None:
        """Refuse speech whose length differs from utt2dur, if utt2dur was used."""
        if self.base.features is not None or not is_stated(self.data, utterance):
            return
        seconds = len(speech) / self.base.rate_hz
        if abs(seconds - length * self.base.frame_shift_ms / 1000) > max(0.1, 0.05 * seconds):
            stated = f"{utterance.utt_id}: {self.data.duration_sec[utterance.utt_id]:g} s"
            raise DataError(
                f"{self.data.path}/utt2dur: {stated}, but its audio has {seconds:.2f} s; remove utt2dur, or "
                "correct it"
            )

    def _read_speech(self, utterance: Utterance, own_length: int) -> Tensor:
        speech = read_audio(
            self.data.recordings[utterance.recording],
            rate_hz=self.base.rate_hz,
            start_sec=utterance.start_sec,
            end_sec=utterance.end_sec,
            allow_pipes=self.allow_pipes,
        )
        self._refuse_stale(utterance, speech, own_length)
        return speech


@functools.cache
def _warn_of_silence(path: Path, utt_id: str) -> None:
    """Warn once of an utterance to which no noise is added."""
    _LOG.warning("%s: %s is digital silence, which has no SNR; it is used without noise", path, utt_id)


def read_examples(
    path: Path, base: BaseModel, *, allow_pipes: bool = False, needs_text: bool = True
) -> Examples:
    """Read a data directory for a base model, with every task assigned to the base model itself."""
    data = datadir.read(path, needs_text=needs_text)
    refuse_misfit(data, base)
    return make_examples(data, base, allow_pipes=allow_pipes)


def make_examples(data: DataDir, base: BaseModel, *, allow_pipes: bool = False) -> Examples:
    """Make examples of a data set; missing features are computed."""
    task_ids = dict.fromkeys(data.tasks, BASE_TASK)
    samples = None
    if base.features is None or data.feats is None:
        samples = tuple(count_samples(data, rate_hz=base.rate_hz, allow_pipes=allow_pipes))
    own = tuple(corpus.count_frames(data) if samples is None else frames_of(base, samples))
    if base.padded_frames is None:
        return Examples(data, base, own, task_ids, allow_pipes, num_samples=samples)
    _refuse_long(data, own, base)
    padded = (base.padded_frames,) * len(own)
    return Examples(data, base, padded, task_ids, allow_pipes, own_lengths=own, num_samples=samples)


def _refuse_long(data: DataDir, lengths: Sequence[int], base: BaseModel) -> None:
    """Refuse utterances longer than a model reads at once."""
    long = data.utterances.ids.take(np.flatnonzero(np.asarray(lengths) > base.padded_frames))
    most_sec = base.prompting.most_sec
    if len(long):
        raise DataError(
            f"{data.path}: {listed(long, 5)}: longer than the {most_sec:g} s that {base.path} reads at once; "
            "divide the recordings into shorter utterances with segments, or drop these: "
            f"'adaptkit data fix {shell_word(data.path)} --max-sec {most_sec:g}'"
        )


def frames_of(base: BaseModel, counts: Sequence[int]) -> list[int]:
    """Return the numbers of feature frames for given numbers of samples."""
    count = functools.partial(padding.feature_frames, base.model.frontend)
    if base.features is not None:
        count = FbankOptions.from_dict(base.features).count_frames
    frames = {num_samples: count(num_samples) for num_samples in set(counts)}
    return [frames[num_samples] for num_samples in counts]


def number_tasks(data: DataDir, tasks: Sequence[str], *, unknown: str = "error") -> dict[str, int]:
    """Return the id of every task of a data directory; a task without adapters uses those of SHARED.

    Without SHARED, such a task is refused or, with unknown="base", assigned to the base model.
    """
    known = {task: index for index, task in enumerate(tasks)}
    strange = [task for task in data.tasks if task not in known]
    fallback = BASE_TASK if unknown == "base" else known.get(SHARED, BASE_TASK)
    if strange and unknown != "base" and SHARED not in known:
        described = "; ".join(f"'{task}'{nearest(task, tasks)}" for task in strange[:10])
        raise CheckpointError(
            f"{data.path}: the adapters have {counted(len(tasks), 'speaker')} ({listed(tasks, 8)}), not "
            f"{described}; 'adaptkit decode --unknown-speaker base' decodes them with the base model"
        )
    if strange and fallback != BASE_TASK and len(known) > 1:
        what = f"of {len(data.tasks)} speakers have no adapters of their own and use those of '{SHARED}'"
        _LOG.info("%s: %d %s: %s", data.path, len(strange), what, listed(strange))
    return {task: known.get(task, fallback) for task in data.tasks}


def refuse_other_features(examples: Examples) -> None:
    """Refuse features that differ from those computed by adaptkit, which noise and speeds require."""
    base, utterance = examples.base, examples.data.utterances[0]
    if base.features is None:
        return
    length = (examples.own_lengths or examples.lengths)[0]
    stored = examples._load(utterance, length)
    made = examples._make_feats(examples._read_speech(utterance, length))
    if stored.shape != made.shape or not torch.allclose(stored, made, atol=_SAME_FEATURES):
        path = examples.data.path
        raise DataError(
            f"{path}/feats.scp: differs from the output of 'adaptkit feats' ({utterance.utt_id}), which is "
            "used for noise and other speeds; run 'adaptkit feats', and train the base model on its features"
        )
