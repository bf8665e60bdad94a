"""Noisy copies of data directories, written as recordings: training data, and test sets at given SNRs.

In addition to the tables of a data directory there are `audio/`, `utt2noise` (utterance: SNR in dB, noise
recording, room or `-` for none; `inf - -` is digital silence) and `copies.jsonl`, which records the sources
of each audio file, so that a second run makes only files that are missing or out of date.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from adaptkit import locks
from adaptkit.augment.keyed_random import make_key
from adaptkit.augment.noise import Noise, NoiseBank
from adaptkit.errors import AdaptkitError, ConfigError, DataError, listed
from adaptkit.files import read_text
from adaptkit.kaldi import copied, datadir, subset
from adaptkit.kaldi.audio import audio_file, audio_folder, fit_full_scale, read_audio, write_audio
from adaptkit.kaldi.copied import Copied, Wanted
from adaptkit.kaldi.datadir import DataDir, Utterance
from adaptkit.kaldi.recording import stamp_recording
from adaptkit.kaldi.tables import format_table, write_table

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Copies:
    """The number of copies of each utterance, whether the clean utterances are included, and the seed."""

    number: int = 1
    with_clean: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if self.number < 1:
            raise ConfigError(f"{self.number} noisy copies of each utterance; ask for 1 or more")

    @property
    def suffixes(self) -> dict[int, str]:
        """The suffix of each copy's utterance id; empty if a single copy replaces the clean utterance."""
        if self.number == 1 and not self.with_clean:
            return {1: ""}
        return {number: f"-noisy{number}" for number in range(1, self.number + 1)}


ONE_BESIDE = Copies()


def copy(
    data_dir: Path,
    out_dir: Path,
    noise: Noise,
    which: Copies = ONE_BESIDE,
    *,
    rate_hz: int = 16000,
    allow_pipes: bool = False,
) -> DataDir:
    """Write noisy copies of every utterance to `out_dir`, beside the clean utterances or in their place.

    Noise, SNR and room depend only on the seed, the number of the copy and the utterance id. A copy that
    exceeds full scale is scaled down as a whole.
    """
    data, out_dir = datadir.read(data_dir, needs_text=False), Path(out_dir)
    folder, bank = audio_folder(out_dir, data), NoiseBank(noise, rate_hz)
    plan = []
    for utterance in data.utterances:
        location = data.recordings[utterance.recording]
        for number, suffix in which.suffixes.items():
            key = make_key(which.seed, number, utterance.utt_id)
            plan.append(_Copy(utterance, location, utterance.utt_id + suffix, folder, key))
    recordings = {one.utt_id: str(one.file) for one in plan}
    noisy = DataDir(out_dir, tuple(one.utterance for one in plan), recordings)
    made = subset.combine([replace(data, feats=None), noisy] if which.with_clean else [noisy], path=out_dir)
    with locks.hold(out_dir, parts=(folder.name,)):
        _save(made, data, _make(plan, bank, out_dir, allow_pipes))
    return made


@dataclass(frozen=True)
class _Copy:
    """A noisy copy to be made: its source utterance, id, folder and the random key of its noise."""

    source: Utterance
    location: str
    utt_id: str
    folder: Path
    key: int

    @property
    def utterance(self) -> Utterance:
        """The copy as an utterance, a recording of its own."""
        return replace(self.source, utt_id=self.utt_id, recording=self.utt_id, start_sec=0.0, end_sec=None)

    @property
    def file(self) -> Path:
        """The audio file of the copy."""
        return audio_file(self.folder, self.utt_id)

    def wanted(self, noises: str) -> Wanted:
        """The audio file, and a digest of everything that it depends on."""
        span = [self.source.start_sec, self.source.end_sec]
        made_of = [noises, self.key, self.location, *span, *stamp_recording(self.location)]
        return Wanted(self.file, copied.digest(made_of))


@dataclass(frozen=True)
class _Made(Copied):
    """A finished copy, with its noise and room."""

    snr_db: float
    noise: str
    room: str
    is_lowered: bool


def _make(plan: Sequence[_Copy], bank: NoiseBank, folder: Path, allow_pipes: bool) -> dict[str, _Made]:
    """Make the copies that are missing or out of date, so that a killed run can be continued."""
    by_id = {one.utt_id: one for one in plan}
    stamps = [stamp_recording(recording.location) for recording in bank.noises + bank.rooms]
    noises = copied.digest([bank.list_contents(), stamps])
    wanted = {utt_id: one.wanted(noises) for utt_id, one in by_id.items()}
    num_new = 0

    def make(utt_ids: Sequence[str]) -> Iterator[_Made]:
        nonlocal num_new
        num_new = len(utt_ids)
        for utt_id in utt_ids:
            yield _make_one(by_id[utt_id], bank, wanted[utt_id].made_of, allow_pipes)

    made = copied.make_missing(wanted, folder, _Made, make, what="noisy copies")
    if not num_new:
        return made
    figures = (folder, num_new, len(plan) - num_new, sum(one.is_lowered for one in made.values()))
    log.info("%s: made %d noisy copies, kept %d; %d of all scaled down to full scale", *figures)
    silent = [utt_id for utt_id, one in made.items() if not one.noise]
    if silent:
        what = "are digital silence, which has no SNR, and were copied without noise"
        log.warning("%s: %d %s: %s", folder, len(silent), what, listed(silent, 3))
    return made


def _make_one(one: _Copy, bank: NoiseBank, made_of: str, allow_pipes: bool) -> _Made:
    try:
        speech = read_audio(
            one.location,
            rate_hz=bank.rate_hz,
            start_sec=one.source.start_sec,
            end_sec=one.source.end_sec,
            allow_pipes=allow_pipes,
        )
        noisy = bank.perturb(speech, one.key)
    except DataError as error:
        raise DataError(f"{one.source.utt_id}: {error}") from error
    fitting = fit_full_scale(noisy.speech)
    write_audio(one.file, fitting, rate_hz=bank.rate_hz)
    is_lowered = fitting is not noisy.speech
    size = one.file.stat().st_size
    return _Made(one.utt_id, made_of, size, noisy.snr_db, noisy.noise, noisy.room, is_lowered)


def _save(made: DataDir, source: DataDir, copies: dict[str, _Made]) -> None:
    """Write the tables unless they are up to date; utt2noise first, as wav.scp makes it a data directory."""
    noises = {key: f"{one.snr_db:.2f} {one.noise or '-'} {one.room or '-'}" for key, one in copies.items()}
    table = made.path / "utt2noise"
    with suppress(AdaptkitError):
        if read_text(table) == format_table(noises) and datadir.read(made.path, needs_text=False) == made:
            return
    write_table(table, noises)
    subset.save(made, [source])
