"""Find recordings of noise and room responses in folders or Kaldi lists."""

from collections.abc import Iterable
from pathlib import Path

from adaptkit.errors import DataError, listed
from adaptkit.kaldi.audio import Recording, probe
from adaptkit.kaldi.recording import is_command
from adaptkit.kaldi.tables import read_table

SUFFIXES = (".wav", ".flac", ".sph", ".ogg", ".opus", ".mp3")  # found in folders; a list may name any file


def find_recordings(places: Iterable[Path], key: str) -> tuple[Recording, ...]:
    """Read the header of every recording in folders and lists; `key` is the policy's option for messages.

    A folder is searched by `find_audio`, unless it contains a wav.scp; a list has lines `name location` like
    wav.scp, but no commands. Relative paths start at the working folder. Recordings must be readable and have
    one channel; otherwise a DataError lists the problems.
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


def find_audio(folder: Path) -> list[Path]:
    """Return the audio files below a folder, sorted; hidden ones, such as macOS's `._a.wav`, are none."""
    found = (file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES)
    return sorted(file for file in found if not _is_hidden(file.relative_to(folder)))


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _locate(place: Path, key: str) -> list[str]:
    """Return the locations in a folder or a list."""
    found = []
    if (place / "wav.scp").is_file():
        place = place / "wav.scp"
    if not place.exists():
        problem = f"no such folder or list (relative to {Path.cwd()})"
    elif place.is_dir():
        found = sorted(map(str, find_audio(place)))  # draws depend on the order
        problem = f"contains no recordings ({' '.join(SUFFIXES)})"
    elif place.suffix.lower() in SUFFIXES:
        problem = "a recording; expected a folder or a list of recordings"
    else:
        found = list(read_table(place).values())
        problem = "expected a list of lines 'name location'"
    if not (found and all(found)):
        raise DataError(f"{key}: {place}: {problem}; correct the list, or '{key}' of the policy")
    return found


def _probe_mono(location: str) -> Recording:
    if is_command(location):
        raise DataError(f"{location}: a shell command, which is not run here; write its output to a file")
    recording = probe(location)
    if recording.num_channels != 1:
        raise DataError(
            f"{location}: {recording.num_channels} channels where one is needed; "
            "extract one of them (sox in.wav out.wav remix 1)"
        )
    return recording
