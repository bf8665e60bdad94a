"""Make a Kaldi data directory from a corpus in another layout: `adaptkit data import`.

The module `foreign` reads the layouts. The audio stays where it is.
"""

import logging
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from adaptkit.characters import split_words
from adaptkit.corpora.foreign import READERS, Entry, find_layout
from adaptkit.errors import DataError, counted, listed
from adaptkit.kaldi import datadir
from adaptkit.kaldi.datadir import DataDir, Utterance
from adaptkit.kaldi.recording import is_command

_MOST_LEFT_OUT = 0.05  # share of the entries
_NO_FILE = "no such audio file"
_LONGEST = 200  # characters of a path that are shown
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Imported:
    """The data directory that was written, and why entries were left out, each with its place."""

    data: DataDir
    left_out: tuple[tuple[str, str], ...]  # (reason, place)


def import_corpus(
    source: Path, out: Path, *, layout: str | None = None, speaker: str | None = None
) -> Imported:
    """Write a data directory from a corpus in a layout of `READERS`, by default recognised from its files.

    `speaker` is who speaks where the corpus does not say. Entries without audio or text are left out; if they
    are more than one in twenty, this is a DataError.
    """
    layout = layout or find_layout(source)
    judged = [(entry, _find_fault(entry, speaker)) for entry in READERS[layout](source)]
    left_out = [(reason, _place(entry, reason)) for entry, reason in judged if reason]
    kept = [entry for entry, reason in judged if not reason]
    num_lost = sum(bool(reason) and not entry.is_unusable for entry, reason in judged)
    if not kept or num_lost > _MOST_LEFT_OUT * len(judged):
        shown = listed([f"{reason} ({place})" for reason, place in left_out], 3)
        of_all = f"{len(left_out)} of {counted(len(judged), 'entry', 'entries')}"
        what = f"{of_all} cannot be used: {shown}" if judged else "no entries"
        raise DataError(
            f"{source}: read as {layout}: {what}; fetch what is missing, or name another layout with --layout"
        )
    data = _describe(out, kept, speaker)
    datadir.write(data)
    for reason, count in Counter(reason for reason, _ in left_out).items():
        examples = listed([place for other, place in left_out if other == reason], 3)
        number = counted(count, "entry", "entries")
        _LOG.warning("%s: left out %s, %s: %s", source, number, reason, examples)
    return Imported(data, tuple(left_out))


def _place(entry: Entry, reason: str) -> str:
    """Return where an entry stands; for a missing file, also where it was looked for."""
    is_shown = reason == _NO_FILE and str(entry.audio) != entry.place
    return f"{entry.place}: {str(entry.audio)[:_LONGEST]}" if is_shown else entry.place


def _find_fault(entry: Entry, speaker: str | None) -> str:
    """Return why an entry cannot be used; empty if it can."""
    if entry.is_unusable:
        return entry.text
    if not split_words(f"{entry.speaker} {speaker or ''}"):
        raise DataError(f"{entry.place}: does not say who speaks; name the speaker with --speaker")
    strings = (str(entry.audio), entry.text, entry.speaker)
    if any("\0" in string or re.search("[\ud800-\udfff]", string) for string in strings):
        return "characters that are not text"
    if "\n" in strings[0] or is_command(strings[0]):
        return "a file name that wav.scp cannot hold"
    try:
        is_file = entry.audio.is_file()
    except OSError:  # such as a name that is too long
        is_file = False
    if not is_file:
        return _NO_FILE
    return "" if split_words(entry.text) else "no text"


def _describe(path: Path, entries: Sequence[Entry], speaker: str | None) -> DataDir:
    """Describe entries as utterances, whose ids begin with the speaker and continue with the audio file."""
    names = _name_files({entry.audio for entry in entries})
    recordings, utterances, counts = {}, [], Counter()
    for entry in entries:
        own = _as_word(entry.speaker if split_words(entry.speaker) else speaker)
        name = names[entry.audio]
        utt_id = name if name.startswith(f"{own}-") else f"{own}-{name}"
        recording = None
        if entry.start_sec is not None:
            marks = [f"{round(1000 * second):07}" for second in (entry.start_sec, entry.end_sec)]
            utt_id, recording = f"{utt_id}-{'-'.join(marks)}", f"rec-{name}"
        counts[utt_id] += 1
        if counts[utt_id] > 1:
            utt_id = f"{utt_id}-{counts[utt_id]}"
        recording = recording or utt_id  # which is not that of another file
        recordings[recording] = str(entry.audio.resolve())
        text = " ".join(split_words(entry.text))
        span = (entry.start_sec or 0.0, entry.end_sec)
        utterances.append(Utterance(utt_id, own, recording, text, *span))
    return DataDir(path, tuple(sorted(utterances, key=lambda u: u.utt_id.encode())), recordings)


def _name_files(files: Iterable[Path]) -> dict[Path, str]:
    """Name each file by the fewest last parts of its path that tell it from the others.

    >>> names = _name_files([Path("a/x/1.wav"), Path("a/y/1.wav"), Path("a/y/2.wav")])
    >>> [names[file] for file in sorted(names)]
    ['x-1', 'y-1', '2']
    """
    names, rest = {}, list(files)
    for depth in range(1, 1 + max((len(file.parts) for file in rest), default=0)):
        made = {file: "-".join(map(_as_word, file.with_suffix("").parts[-depth:])) for file in rest}
        counts = Counter([*made.values(), *names.values()])
        names |= {file: name for file, name in made.items() if counts[name] == 1}
        rest = [file for file in rest if file not in names]
    return names | {file: f"{_as_word(file.stem)}-{index}" for index, file in enumerate(sorted(rest))}


def _as_word(name: str) -> str:
    """Return a name as one word without slashes."""
    return "_".join(split_words(name)).replace("/", "-") or "-"
