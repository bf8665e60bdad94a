"""Join the isolated digits of the Free Spoken Digit Dataset into strings: data/train, data/valid, data/test.

data/train_20 holds 20 strings per speaker from data/train. With --noise there are also noise_train and
noise_test, lists of noise recordings of different types, and the test set at several SNRs, for example
data/test_10db.

Expected below CORPUS: recordings/{digit}_{speaker}_{index}.wav, 8 kHz. lists/ gives the recordings of one
speaker in each string and the pauses between them; local/make_lists.py drew them and explains the sets and
their sizes.

Strings are joined at 8 kHz and resampled to 16 kHz as a whole, so that pauses are as empty above 4 kHz as the
digits. The recorded loudness is kept: a speaker's adapter has to learn it. Two things are
changed. The mean of each recording is removed, since a step from one to the next would be a click (nicolas
has a mean of 0.7 % of full scale). Pauses are filled with Gaussian noise, seeded by the utterance, as loud as
the quietest twentieth of the 10 ms frames of the string: the recordings are cut too tightly to contain a
pause to copy, and no recording has the log-mel values of digital silence.

Z. Jackson and others, Free Spoken Digit Dataset, https://github.com/Jakobovski/free-spoken-digit-dataset
"""

import logging
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor
from torchaudio.functional import resample

from adaptkit.cli.script import run_script
from adaptkit.corpora import noise_sets
from adaptkit.errors import DataError, counted, listed
from adaptkit.files import read_text
from adaptkit.kaldi import datadir, subset
from adaptkit.kaldi.audio import read_audio, write_audio
from adaptkit.kaldi.datadir import DataDir, Utterance

EXPECTED = "CORPUS should be a clone of the Free Spoken Digit Dataset, v1.0.9 or later"
LISTS = Path(__file__).parents[1] / "lists"
WORDS = ("ZERO", "ONE", "TWO", "THREE", "FOUR", "FIVE", "SIX", "SEVEN", "EIGHT", "NINE")
RATE_HZ = 8000  # of the recordings
RATE_OUT_HZ = 16000
FRAME = 80  # samples; 10 ms at 8 kHz
FEW = 20  # strings of each speaker in the small training set
QUIET = 0.05  # share of the frames that is taken as silence


def main(
    corpus: Annotated[Path, typer.Argument(help="folder of the dataset, which contains recordings/")],
    data: Annotated[Path, typer.Argument(help="folder to write train, valid and test to")],
    noise: Annotated[
        Path | None, typer.Option(help="folder of noises: <type>.wav, <type>/*.flac; adds noisy test sets")
    ] = None,
) -> None:
    """Write the digit strings and their data directories.

    Example: python local/prepare.py downloads/free-spoken-digit-dataset data
    """
    torch.set_num_threads(1)  # with such short filters, more threads only wait for each other
    sets = {name: read_list(LISTS / f"{name}.txt") for name in ("train", "valid", "test")}
    refuse_missing(corpus, {path for strings in sets.values() for s in strings for path in s.files})
    for name, strings in sets.items():
        recordings = {s.utt_id: str((data / "audio" / f"{s.utt_id}.wav").resolve()) for s in strings}
        for string in strings:
            digits = [read_audio(str(corpus / file), rate_hz=RATE_HZ) for file in string.files]
            speech = join(digits, string.pauses_sec, seed=zlib.crc32(string.utt_id.encode()))
            speech = resample(speech, RATE_HZ, RATE_OUT_HZ)
            write_audio(Path(recordings[string.utt_id]), speech, rate_hz=RATE_OUT_HZ)
        utterances = tuple(Utterance(s.utt_id, s.speaker, s.utt_id, s.text) for s in strings)
        datadir.write(DataDir(data / name, utterances, recordings))
        logging.info(
            "%s: %d strings of %d speakers", data / name, len(strings), len({s.speaker for s in strings})
        )
    whole = datadir.read(data / "train")
    few = subset.choose_per_speaker(whole, FEW)
    subset.save(subset.subset(whole, few, path=data / f"train_{FEW}"), [whole])
    if noise:
        noise_sets.write_noise_lists(noise, data)
        noise_sets.copy_tests(data, ["test"])


@dataclass(frozen=True)
class DigitString:
    """Recordings of one speaker, each `digit_index`, and the pauses before, between and after them."""

    utt_id: str
    recordings: tuple[str, ...]
    pauses_sec: tuple[float, ...]

    @property
    def speaker(self) -> str:
        """The speaker: the first part of the utterance id."""
        return self.utt_id.partition("-")[0]

    @property
    def files(self) -> list[str]:
        """The paths of the recordings below the corpus."""
        parts = (recording.split("_") for recording in self.recordings)
        return [f"recordings/{digit}_{self.speaker}_{index}.wav" for digit, index in parts]

    @property
    def text(self) -> str:
        """The digits in words."""
        return " ".join(WORDS[int(recording.partition("_")[0])] for recording in self.recordings)


def read_list(path: Path) -> list[DigitString]:
    """Read lines of `utterance pause recording pause ... recording pause`."""
    strings = []
    for line in read_text(path).splitlines():
        utt_id, *fields = line.split()
        strings.append(DigitString(utt_id, tuple(fields[1::2]), tuple(map(float, fields[::2]))))
    return strings


def refuse_missing(corpus: Path, files: Iterable[str]) -> None:
    """Refuse a corpus in which files are missing, before anything is written."""
    missing = sorted(file for file in files if not (corpus / file).is_file())
    if missing:
        number = counted(len(missing), "recording")
        raise DataError(f"{corpus}: {number} missing: {listed(missing, most=3)}; {EXPECTED}")


def join(digits: Sequence[Tensor], pauses_sec: Sequence[float], *, seed: int) -> Tensor:
    """Join digits (N_i,) with a pause before, between and after them; all at RATE_HZ."""
    digits = [speech - speech.mean() for speech in digits]
    frames = torch.cat([speech.unfold(0, FRAME, FRAME) for speech in digits])  # (T, FRAME)
    level = frames.std(dim=1).quantile(QUIET)
    generator = torch.Generator().manual_seed(seed)
    pauses = [level * torch.randn(round(sec * RATE_HZ), generator=generator) for sec in pauses_sec]
    return torch.cat([part for pair in zip(pauses, digits, strict=False) for part in pair] + pauses[-1:])


if __name__ == "__main__":
    run_script(main)
