"""Recordings of noise and of room responses, as folders or Kaldi lists name them."""

from collections.abc import Iterable
from pathlib import Path

from adaptkit.errors import DataError, listed
from adaptkit.kaldi.audio import Recording, probe
from adaptkit.kaldi.tables import read_table

SUFFIXES = (".wav", ".flac", ".sph", ".ogg", ".opus", ".mp3")  # looked for in folders; a list names any file


def find_recordings(places: Iterable[Path], key: str) -> tuple[Recording, ...]:
    """Read the header of every recording of some folders and lists; `key` of the policy names these.

    A folder is searched to its depths, in the order of paths, unless it holds a wav.scp; a list has lines
    `name location` as that has. Relative paths count from the working folder. A recording must be readable
    and have one channel.
    """
    locations = [location for place in places for location in _locate(place, key)]
    recordings, problems = [], []
    for location in locations:
        try:
            recordings.append(_probe_mono(location))
        except DataError as error:
            problems.append(str(error))
    if problems:
        raise DataError(f"{key}: {len(problems)} of {len(locations)} recordings: {listed(problems)}")
    return tuple(recordings)


def _locate(place: Path, key: str) -> list[str]:
    """Give the locations in a folder or a list."""
    found = []
    if (place / "wav.scp").is_file():
        place = place / "wav.scp"
    if not place.exists():
        problem = f"no such folder or list (seen from {Path.cwd()})"
    elif place.is_dir():
        found = sorted(str(file) for file in place.rglob("*") if file.suffix.lower() in SUFFIXES)
        problem = f"holds no recording ({' '.join(SUFFIXES)})"
    elif place.suffix.lower() in SUFFIXES:
        problem = "a recording where a folder or a list of them is needed"
    else:
        found = list(read_table(place).values())
        problem = "a list needs lines 'name location'"
    if not (found and all(found)):
        raise DataError(f"{key}: {place}: {problem}; correct the list, or '{key}' of the policy")
    return found


def _probe_mono(location: str) -> Recording:
    recording = probe(location)
    if recording.num_channels != 1:
        raise DataError(
            f"{location}: {recording.num_channels} channels where one is needed; "
            "keep one of them (sox in.wav out.wav remix 1)"
        )
    return recording
