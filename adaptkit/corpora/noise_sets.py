"""Lists of noises for training and test, and test sets in noise at several SNRs."""

import logging
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from adaptkit.augment.copies import Copies, copy
from adaptkit.augment.noise import Noise
from adaptkit.augment.recordings import find_audio
from adaptkit.errors import DataError, listed
from adaptkit.kaldi.tables import write_table

TEST_NOISES = ("helicopter", "rain", "exercise_bike", "running_tap")  # types that are not used in training
TEST_SNRS_DB = (20, 10, 5, 0)

log = logging.getLogger(__name__)


def copy_tests(data: Path, names: Sequence[str]) -> None:
    """Write `<name>_<SNR>db` for each test set below `data` and each of TEST_SNRS_DB, without reverberation.

    The noises are those of `noise_test`. An utterance has the same noise at every SNR.
    """
    for name in names:
        for snr_db in TEST_SNRS_DB:
            noises = (data / "noise_test" / "wav.scp",)
            noise = Noise(noises=noises, snr_db=(snr_db, snr_db), room_share=0.0)
            copy(data / name, data / f"{name}_{snr_db}db", noise, Copies(with_clean=False))


def write_noise_lists(folder: Path, data: Path, test_types: Collection[str] = TEST_NOISES) -> None:
    """Write lists of the noise recordings below a folder as `noise_train` and `noise_test` below `data`.

    The type of a recording is the name of its folder, or its own name at the top level. The lists share no
    type.
    """
    lists: dict[str, dict[str, str]] = {"noise_train": {}, "noise_test": {}}
    for kind, file in _find_noises(folder):
        table = lists["noise_test" if kind in test_types else "noise_train"]
        name = "_".join("-".join(file.relative_to(folder).with_suffix("").parts).split())
        if table.setdefault(name, str(file.resolve())) != str(file.resolve()):
            raise DataError(f"{file}: another recording has the name {name} too; rename one")
    if not all(lists.values()):
        kinds = sorted({kind for kind, _ in _find_noises(folder)})
        raise DataError(
            f"{folder}: types {listed(kinds) or 'none'}, but some of {listed(test_types)} are needed for "
            "tests and others for training; give a folder with more types"
        )
    for name, table in lists.items():
        write_table(data / name / "wav.scp", table)
        log.info("%s: %d noise recordings", data / name, len(table))


def _find_noises(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield the type and path of each recording below a folder."""
    for file in find_audio(folder):
        yield (file.stem if file.parent == folder else file.parent.name), file
