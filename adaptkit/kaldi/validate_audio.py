"""Check the recordings of a data directory against its segments, texts and durations."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path

from adaptkit.errors import DataError
from adaptkit.kaldi.datadir import Utterance
from adaptkit.kaldi.durations import measure
from adaptkit.kaldi.levels import Levels, measure_levels
from adaptkit.kaldi.probing import map_in_jobs
from adaptkit.kaldi.recording import MOST_LEVEL, OVERSHOOT_SEC, Recording, is_command
from adaptkit.kaldi.scan import Checks, Problem, Table
from adaptkit.kaldi.segments import MOST_SEC, parse_segment

DURATION_TOLERANCE = 0.05  # between utt2dur and the audio: rounding, resampling, frames at the edges
FASTEST = 35  # characters per second in an utterance; at most 27.5 in the digits of FSDD, 18.8 in AN4
FASTEST_POOLED = 25  # over at least a minute; read speech has 10 to 18, so twice the true rate stands out
POOLED_SEC = 60
_AT_A_TIME = 10  # recordings per job; they may be long


@dataclass
class _Audio:
    """The audio as known so far while it is being checked."""

    path: Path
    tables: dict[str, Table]
    recordings: dict[str, Recording] = field(default_factory=dict)  # usable ones
    spans: dict[str, tuple[str, float, float | None]] = field(default_factory=dict)  # by utterance
    seconds: dict[str, float] = field(default_factory=dict)  # utterance: its duration, where known

    @property
    def table(self) -> str:
        """The table with the locations of utterances."""
        return "segments" if "segments" in self.tables else "wav.scp"

    def has_length(self, utt_id: str) -> bool:
        """Whether an utterance begins within its recording and ends later; others are reported."""
        name, start_sec, end_sec = self.spans[utt_id]
        length_sec = self.recordings[name].duration_sec
        return start_sec < (length_sec if end_sec is None else min(end_sec, length_sec))

    def problem(
        self, name: str, key: str, what: str, remedy: str = "", *, cause: str, example: str
    ) -> Problem:
        """Return a problem of one line of a table."""
        remedy = remedy or f"'adaptkit data fix {self.path}' drops it"
        number = self.tables[name][key].number
        return Problem(self.path / name, number, key, what, remedy, cause=cause, example=example)


def audio_problems(path: Path, tables: dict[str, Table], checks: Checks) -> Iterator[Problem]:
    """Find unusable recordings, and utterances whose times or texts do not match the audio.

    Every recording is decoded, since headers do not reveal a damaged middle, silence or values that are not
    numbers. This takes about a second per hour of FLAC.
    """
    audio = _Audio(path, tables)
    audio.spans.update(_find_spans(tables))
    if checks.check_audio:
        yield from _decode_all(audio, checks)
    audio.seconds.update(_find_durations(audio))
    yield from _overshoots(audio)
    yield from _length_problems(audio, checks)
    yield from _wrong_durations(audio)
    yield from _fast_texts(audio)
    yield from _doubtful_rates(audio)


def _decode_all(audio: _Audio, checks: Checks) -> Iterator[Problem]:
    """Decode each recording of wav.scp, and report those, and the segments, that cannot be used."""
    users = defaultdict(list)
    for utt_id, (name, *_) in audio.spans.items():
        users[name].append(utt_id)
    locations = {name: line.value for name, line in audio.tables["wav.scp"].items() if line.value}
    not_run = [
        name for name, location in locations.items() if is_command(location) and not checks.allow_pipes
    ]
    left = set(not_run)
    todo = [name for name in locations if name not in left]
    parts = [(locations[name], [audio.spans[utt_id][1:] for utt_id in users[name]]) for name in todo]
    measure_some = partial(_measure_some, allow_pipes=checks.allow_pipes)
    made = map_in_jobs(measure_some, parts, num_jobs=checks.num_jobs, what="recordings", size=_AT_A_TIME)
    for name, decoded in zip(todo, chain.from_iterable(made), strict=True):
        if isinstance(decoded, DataError):
            yield _unusable(audio, name, locations[name], decoded)
            continue
        audio.recordings[name] = decoded.recording
        if decoded.recording.num_channels != 1:
            yield _several_channels(audio, name, decoded.recording)
        else:
            yield from _wrong_levels(audio, users[name], decoded.peaks)
    if not_run:
        number = audio.tables["wav.scp"][not_run[0]].number
        what, remedy = (
            f"{len(not_run)} recordings are commands and were not checked",
            "--allow-pipes runs them",
        )
        yield Problem(audio.path / "wav.scp", number, "", what, remedy, is_warning=True)


def _measure_some(
    parts: Sequence[tuple[str, Sequence[tuple[float, float | None]]]], *, allow_pipes: bool
) -> list[Levels | DataError]:
    found: list[Levels | DataError] = []
    for location, spans in parts:
        try:
            found.append(measure_levels(location, spans, allow_pipes=allow_pipes))
        except DataError as error:
            found.append(error)
    return found


def _unusable(audio: _Audio, name: str, location: str, error: DataError) -> Problem:
    what, _, remedy = str(error).rpartition("; ")
    cause = what.removeprefix(location).removeprefix(location.rpartition(":")[0]).removeprefix(": ")
    return audio.problem("wav.scp", name, what, remedy, cause=cause, example=location)


def _several_channels(audio: _Audio, name: str, recording: Recording) -> Problem:
    location, cause = recording.location, f"{recording.num_channels} channels where one is needed"
    remedy = "extract the channel to recognise"
    return audio.problem("wav.scp", name, f"{location}: {cause}", remedy, cause=cause, example=location)


def _wrong_levels(audio: _Audio, utt_ids: Sequence[str], peaks: Sequence[float]) -> Iterator[Problem]:
    """Report values that are not numbers or far beyond full scale, which are refused, and digital silence."""
    for utt_id, peak in zip(utt_ids, peaks, strict=True):
        if not peak <= MOST_LEVEL:
            cause, example = "samples far beyond full scale, which is 1", f"{utt_id} ({peak:g})"
            what = f"{utt_id}: samples reach {peak:g}, but full scale is 1"
            remedy = f"convert the recording again, or 'adaptkit data fix {audio.path}' drops it"
            yield audio.problem(audio.table, utt_id, what, remedy, cause=cause, example=example)
        elif not peak and audio.has_length(utt_id):
            cause = "digital silence, every sample is zero"
            yield audio.problem(audio.table, utt_id, f"{utt_id}: {cause}", cause=cause, example=utt_id)


def _find_spans(tables: dict[str, Table]) -> Iterator[tuple[str, tuple[str, float, float | None]]]:
    """Yield the recording, start and end of each utterance that has them."""
    if "segments" not in tables:
        yield from ((name, (name, 0.0, None)) for name in tables["wav.scp"])
        return
    for utt_id, line in tables["segments"].items():
        try:
            yield utt_id, parse_segment(line.value)
        except ValueError:
            continue  # reported with other invalid values


def _find_durations(audio: _Audio) -> Iterator[tuple[str, float]]:
    """Yield the duration of each utterance in seconds: from its recording and times, else from utt2dur."""
    stated = audio.tables.get("utt2dur", {})
    lengths_sec = {name: recording.duration_sec for name, recording in audio.recordings.items()}
    for utt_id, (name, start_sec, end_sec) in audio.spans.items():
        if name in lengths_sec and end_sec is not None:
            end_sec = min(end_sec, lengths_sec[name])
        seconds = _seconds(stated[utt_id].value) if utt_id in stated else 0.0
        spoken = Utterance(utt_id, "", name, "", start_sec, end_sec)
        found = measure(spoken, {utt_id: seconds} if seconds > 0 else {}, lengths_sec.get)
        if found is not None:
            yield utt_id, found


def _overshoots(audio: _Audio) -> Iterator[Problem]:
    for utt_id, (name, start_sec, end_sec) in audio.spans.items():
        if name not in audio.recordings or "segments" not in audio.tables:
            continue
        length_sec = audio.recordings[name].duration_sec
        if start_sec >= length_sec or (end_sec or 0.0) > length_sec + OVERSHOOT_SEC:
            end = "its end" if end_sec is None else f"{end_sec:g} s"
            what = f"{utt_id}: {start_sec:g} s to {end} is beyond the {length_sec:.2f} s of recording {name}"
            cause, example = "times beyond the end of the recording", f"{utt_id} ({name})"
            yield audio.problem("segments", utt_id, what, cause=cause, example=example)


def _length_problems(audio: _Audio, checks: Checks) -> Iterator[Problem]:
    for utt_id, seconds in audio.seconds.items():
        if 0 < seconds < checks.min_sec:
            cause, example = f"less than {checks.min_sec:g} s", f"{utt_id} ({seconds:.3f} s)"
            what = f"{utt_id} lasts {seconds:.3f} s, {cause}"
            yield audio.problem(audio.table, utt_id, what, cause=cause, example=example)
        if seconds > checks.max_sec:
            cause, example = f"more than {checks.max_sec:g} s", f"{utt_id} ({seconds:.2f} s)"
            what = f"{utt_id} lasts {seconds:.2f} s, {cause}"
            remedy = f"cut it with segments, raise --max-sec, or 'adaptkit data fix {audio.path}' drops it"
            yield audio.problem(audio.table, utt_id, what, remedy, cause=cause, example=example)


def _wrong_durations(audio: _Audio) -> Iterator[Problem]:
    for utt_id, line in audio.tables.get("utt2dur", {}).items():
        stated, seconds = _seconds(line.value), audio.seconds.get(utt_id)
        if seconds and stated > 0 and abs(stated - seconds) > max(0.1, DURATION_TOLERANCE * seconds):
            what = f"{utt_id}: {stated:g} s, but its audio has {seconds:.2f} s"
            cause, example = (
                "durations that differ from the audio",
                f"{utt_id} ({stated:g} s, {seconds:.2f} s)",
            )
            fixed = f"'adaptkit data fix {audio.path}' drops the line"
            remedy = f"check the rate of the recording; if utt2dur is out of date, {fixed}"
            found = audio.problem("utt2dur", utt_id, what, remedy, cause=cause, example=example)
            yield replace(found, utt_id="")  # the utterance itself is usable


def _fast_texts(audio: _Audio) -> Iterator[Problem]:
    for utt_id, line in audio.tables["text"].items():
        seconds = audio.seconds.get(utt_id, 0.0)
        if seconds > 0 and len(line.value) > FASTEST * seconds + 5:  # 5 allows for one short word cut closely
            what = f"{utt_id}: {len(line.value)} characters in {seconds:.2f} s, too fast for speech"
            cause, example = "more characters than can be spoken in the time", f"{utt_id} ({seconds:.2f} s)"
            remedy = "check the text and the sampling rate of the recording"
            yield audio.problem("text", utt_id, what, remedy, cause=cause, example=example)


def _doubtful_rates(audio: _Audio) -> Iterator[Problem]:
    """Warn of a stated sampling rate at which its recordings together are too fast for speech."""
    characters, seconds, lines = defaultdict(int), defaultdict(float), {}
    for utt_id, (name, _, _) in audio.spans.items():
        if name in audio.recordings and utt_id in audio.tables["text"]:
            rate_hz = audio.recordings[name].rate_hz
            characters[rate_hz] += len(audio.tables["text"][utt_id].value)
            seconds[rate_hz] += audio.seconds[utt_id]
            lines.setdefault(rate_hz, audio.tables["wav.scp"][name].number)
    for rate_hz, total_sec in seconds.items():
        if total_sec > POOLED_SEC and characters[rate_hz] > FASTEST_POOLED * total_sec:
            pace = characters[rate_hz] / total_sec
            what = f"recordings with a stated rate of {rate_hz} Hz have {pace:.1f} characters per second"
            remedy = "speech has 10 to 18: check whether the headers state the true rate"
            yield Problem(audio.path / "wav.scp", lines[rate_hz], "", what, remedy, is_warning=True)


def _seconds(value: str) -> float:
    """Return the seconds in a value of utt2dur; 0 if it is invalid, which is reported elsewhere."""
    try:
        return float(value) if 0 < float(value) < MOST_SEC else 0.0
    except ValueError:
        return 0.0
