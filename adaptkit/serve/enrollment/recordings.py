"""The recordings of speakers: for each one a Kaldi data directory, `DIR/<speaker>`, with WAV files in `wav/`.

A recording exists once it is in `wav.scp`, which is replaced atomically: its audio and its lines in the other
tables are written before and removed after that. What a killed server leaves in them is dropped by the next
change. `utt2kind` says what each recording is: `correction`, `prompt`, or `prompt` and the prompt's id.
"""

import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import RLock
from typing import Literal
from urllib.parse import unquote

from torch import Tensor

from adaptkit import locks
from adaptkit.adapters.per_task import SHARED
from adaptkit.characters import clean
from adaptkit.errors import AdaptkitError, counted, listed
from adaptkit.files import remove
from adaptkit.kaldi.audio import write_audio
from adaptkit.kaldi.datadir import invert
from adaptkit.kaldi.tables import read_table, write_table
from adaptkit.serve.schemas import Refusal
from adaptkit.submodels.files import SUFFIX, file_name

RESERVED = (SHARED, "base")  # the adapter for all speakers, and the bare base model
_LONGEST_NAME = 100  # characters of a speaker's name
_LONGEST_FOLDER = 180  # bytes of its folder's name, from which the name can then be told
_REMOVED = ".removed-"  # begins the name of a folder that is being removed


@dataclass(frozen=True)
class Recorded:
    """A recording of a speaker."""

    id: str
    text: str
    audio_sec: float
    kind: Literal["prompt", "correction"] = "prompt"
    prompt: str | None = None  # the id of the prompt that was read


class Recordings:
    """The recordings of all speakers in a folder, which several processes may change at once."""

    def __init__(self, folder: Path, *, most: int):
        self.folder, self._most = folder.resolve(), most
        self._changing = RLock()  # locks on folders hold between processes, not between threads
        for left in self.folder.glob(f"{_REMOVED}*"):
            shutil.rmtree(left, ignore_errors=True)

    def names(self) -> list[str]:
        """List the speakers, sorted."""
        with suppress(FileNotFoundError):
            return sorted(
                name_of(path.name) for path in self.folder.iterdir() if (path / "wav.scp").is_file()
            )
        return []

    def __contains__(self, name: str) -> bool:
        return (self.folder_of(name) / "wav.scp").is_file()

    def folder_of(self, name: str) -> Path:
        """Return a speaker's data directory, named as the file of a Submodel; refuse an unusable name."""
        refuse_name(name)
        return self.folder / folder_name(name)

    @contextmanager
    def changing(self, name: str) -> Iterator[Path]:
        """Hold the speaker's folder, so that no other thread, server or command changes it meanwhile."""
        folder = self.folder_of(name)
        with self._changing:
            try:
                with locks.hold(folder, wait=True, parts=("wav",)):
                    yield folder
            finally:
                with suppress(OSError):  # of one that exists, or has not been made
                    folder.rmdir()

    def make(self, name: str) -> bool:
        """Make a speaker without recordings; return whether there was none."""
        if name in self:
            return False
        with self.changing(name) as folder:
            is_new = name not in self
            if is_new:
                _write(folder, name, [], [])
        return is_new

    def read(self, name: str) -> list[Recorded]:
        """List a speaker's recordings in the order of their arrival; refuse an unknown speaker."""
        folder = self.folder_of(name)
        try:
            ids, *tables = (_read(folder / table) for table in ("wav.scp", "text", "utt2dur", "utt2kind"))
        except AdaptkitError:
            if name in self:
                raise
        if name not in self:
            raise Refusal(404, f"there is no speaker '{name}'; PUT /v1/speakers/{name} makes one")
        texts, durations, kinds = tables
        return [
            _describe(
                utt_id.removeprefix(f"{name}-"), texts[utt_id], durations.get(utt_id), kinds.get(utt_id)
            )
            for utt_id in sorted(ids)
            if utt_id in texts
        ]

    def add(self, name: str, speech: Tensor, rate_hz: int, made: Recorded) -> Recorded:
        """Keep a recording, in place of an earlier one of the same prompt; return it with its id."""
        with self.changing(name) as folder:
            present = self.read(name)
            kept = [one for one in present if made.prompt is None or one.prompt != made.prompt]
            if len(kept) >= self._most:
                raise Refusal(
                    409,
                    f"'{name}' has {counted(len(kept), 'recording')} already, the most that this server "
                    "keeps; delete some, or start it with a higher --max-recordings",
                )
            new = Recorded(_new_id(), made.text, made.audio_sec, made.kind, made.prompt)
            path = _audio(folder, new.id)
            try:
                write_audio(path, speech, rate_hz=rate_hz)
                _write(folder, name, present, [*kept, new])
            except Exception:
                with suppress(AdaptkitError):  # on a full disk, the next change drops what is left
                    if f"{name}-{new.id}" not in _read(folder / "wav.scp"):
                        remove(path)
                    _write(folder, name, [*kept, new], present)
                raise
        return new

    def find(self, name: str, recording: str) -> Path:
        """Return the audio file of a recording; refuse an unknown one."""
        self._find(name, recording, self.read(name))
        return _audio(self.folder_of(name), recording)

    def remove(self, name: str, recording: str) -> None:
        """Remove a recording."""
        with self.changing(name) as folder:
            present = self.read(name)
            gone = self._find(name, recording, present)
            _write(folder, name, present, [one for one in present if one is not gone])

    def remove_speaker(self, name: str) -> None:
        """Remove a speaker with all recordings: at once for others, even if this is interrupted."""
        with self.changing(name) as folder:
            aside = self.folder / f"{_REMOVED}{_new_id()}"
            os.rename(folder, aside)
        shutil.rmtree(aside, ignore_errors=True)

    def _find(self, name: str, recording: str, present: Sequence[Recorded]) -> Recorded:
        found = [one for one in present if one.id == recording]
        if not found:
            raise Refusal(404, f"'{name}' has no such recording; GET /v1/speakers/{name} lists them")
        return found[0]


def refuse_name(name: str) -> None:
    """Refuse a name that tables of Kaldi, addresses or folders cannot hold, or that means something else."""
    reason = ""
    if not name or len(name) > _LONGEST_NAME or len(file_name(name)) > _LONGEST_FOLDER:
        reason = f"a name has 1 to {_LONGEST_NAME} characters, fewer if they are not Latin ones"
    elif name != clean(name) or " " in name or not name.isprintable():
        reason = "a name has no spaces or invisible characters; use - or _ between words"
    elif "/" in name or "\\" in name or name.startswith((".", "-")):
        reason = "a name has no slashes, and begins with neither a dot nor a dash"
    elif name in RESERVED:
        reason = f"{listed(RESERVED)} mean other models; choose another name"
    if reason:
        raise Refusal(422, f"speaker {name[:_LONGEST_NAME]!r}: {reason}")


def folder_name(name: str) -> str:
    """Return the name of a speaker's folder, which is that of the Submodel's file.

    >>> folder_name("anna"), folder_name("zo\u00eb")
    ('anna', 'zo%C3%AB')
    """
    return file_name(name).removesuffix(SUFFIX)


def name_of(folder: str) -> str:
    """Return the speaker that a folder is named after.

    >>> [name_of(folder_name(name)) for name in ("anna", "Zo\u00eb", "a+b")]
    ['anna', 'Zo\u00eb', 'a+b']
    """
    return unquote(folder.partition("+")[0])


def _audio(folder: Path, recording: str) -> Path:
    return folder / "wav" / f"{recording}.wav"


def _new_id() -> str:
    """Return an id that sorts by time, and that no other process returns."""
    return f"{time.time_ns() // 1_000_000:011x}{os.urandom(3).hex()}"


def _read(path: Path) -> Mapping[str, str]:
    return read_table(path) if path.exists() else {}


def _describe(recording: str, text: str, seconds: str | None, kind: str | None) -> Recorded:
    named, _, prompt = (kind or "prompt").partition(" ")
    is_correction = named == "correction"
    return Recorded(
        recording, text, float(seconds or 0), "correction" if is_correction else "prompt", prompt or None
    )


def _write(folder: Path, name: str, before: Sequence[Recorded], after: Sequence[Recorded]) -> None:
    """Replace the recordings of a folder: at the moment when wav.scp is replaced, for whoever reads it."""
    kept = {one.id for one in after}
    gone = [one for one in before if one.id not in kept]
    if gone:
        _write_tables(folder, name, [*after, *gone])
    else:
        _write_tables(folder, name, after)
    write_table(folder / "wav.scp", {f"{name}-{one.id}": str(_audio(folder, one.id)) for one in after})
    if gone:
        _write_tables(folder, name, after)
    for path in (folder / "wav").glob("*.wav"):
        if path.stem not in kept:
            remove(path)


def _write_tables(folder: Path, name: str, recordings: Sequence[Recorded]) -> None:
    """Write all tables but wav.scp."""
    by_utterance = {f"{name}-{one.id}": one for one in recordings}
    speakers = dict.fromkeys(by_utterance, name)
    write_table(folder / "text", {utt_id: one.text for utt_id, one in by_utterance.items()})
    write_table(folder / "utt2spk", speakers)
    write_table(folder / "spk2utt", invert(speakers))
    write_table(folder / "utt2dur", {utt_id: f"{one.audio_sec:.3f}" for utt_id, one in by_utterance.items()})
    kinds = {utt_id: f"{one.kind} {one.prompt or ''}" for utt_id, one in by_utterance.items()}
    write_table(folder / "utt2kind", kinds)
