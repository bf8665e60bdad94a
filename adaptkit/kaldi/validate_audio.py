"""Check the recordings of a data directory against its segments, texts and durations."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from adaptkit.errors import DataError
from adaptkit.kaldi.datadir import Utterance, parse_segment
from adaptkit.kaldi.durations import measure
from adaptkit.kaldi.recording import OVERSHOOT_SEC, Recording, is_command, probe
from adaptkit.kaldi.scan import Checks, Problem, Table

DURATION_TOLERANCE = 0.05  # of utt2dur against the audio: rounding, resampling, frames at the edges
FASTEST = 35  # characters per second in an utterance; at most 27.5 in the digits of FSDD, 18.8 in AN4
FASTEST_POOLED = 25  # over at least a minute; read speech has 10 to 18, so twice the true rate stands out
POOLED_SEC = 60


@dataclass
class _Audio:
    """What is known about the audio while it is being checked."""

    path: Path
    tables: dict[str, Table]
    recordings: dict[str, Recording] = field(default_factory=dict)  # those that can be used
    spans: dict[str, tuple[str, float, float | None]] = field(default_factory=dict)  # utterance: where it is
    seconds: dict[str, float] = field(default_factory=dict)  # utterance: its duration, where known

    def problem(self, name: str, key: str, what: str, remedy: str = "") -> Problem:
        """Return a problem of one line of a table."""
        remedy = remedy or f"'adaptkit data fix {self.path}' drops it"
        return Problem(self.path / name, self.tables[name][key].number, key, what, remedy)


def audio_problems(path: Path, tables: dict[str, Table], checks: Checks) -> Iterator[Problem]:
    """Find unusable recordings, and utterances whose times or texts do not match the audio."""
    audio = _Audio(path, tables)
    if checks.check_audio:
        yield from _probe_all(audio, checks.allow_pipes)
    audio.spans.update(_find_spans(tables))
    audio.seconds.update(_find_durations(audio))
    yield from _overshoots(audio)
    yield from _length_problems(audio, checks)
    yield from _wrong_durations(audio)
    yield from _fast_texts(audio)
    yield from _doubtful_rates(audio)


def _probe_all(audio: _Audio, allow_pipes: bool) -> Iterator[Problem]:
    """Probe each recording of wav.scp, and report those that cannot be used."""
    not_run = []
    for name, line in audio.tables["wav.scp"].items():
        if is_command(line.value) and not allow_pipes:
            not_run.append(line.number)
        elif line.value:
            try:
                recording = probe(line.value, allow_pipes=allow_pipes)
            except DataError as error:
                what, _, remedy = str(error).rpartition("; ")
                yield audio.problem("wav.scp", name, what, remedy)
                continue
            audio.recordings[name] = recording
            if recording.num_channels != 1:
                what = f"{line.value}: {recording.num_channels} channels where one is needed"
                yield audio.problem("wav.scp", name, what, "extract the channel to recognise")
    if not_run:
        what = f"{len(not_run)} recordings are commands and were not checked"
        yield Problem(
            audio.path / "wav.scp", not_run[0], "", what, "--allow-pipes runs them", is_warning=True
        )


def _find_spans(tables: dict[str, Table]) -> Iterator[tuple[str, tuple[str, float, float | None]]]:
    """Yield the recording, start and end of each utterance that has them."""
    if "segments" not in tables:
        yield from ((name, (name, 0.0, None)) for name in tables["wav.scp"])
        return
    for utt_id, line in tables["segments"].items():
        try:
            yield utt_id, parse_segment(line.value)
        except ValueError:
            continue  # reported with the other values


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
            yield audio.problem("segments", utt_id, what)


def _length_problems(audio: _Audio, checks: Checks) -> Iterator[Problem]:
    name = "segments" if "segments" in audio.tables else "wav.scp"
    for utt_id, seconds in audio.seconds.items():
        if 0 < seconds < checks.min_sec:
            what = f"{utt_id} lasts {seconds:.3f} s, less than {checks.min_sec:g} s"
            yield audio.problem(name, utt_id, what)
        if seconds > checks.max_sec:
            what = f"{utt_id} lasts {seconds:.2f} s, more than {checks.max_sec:g} s"
            remedy = f"cut it with segments, raise --max-sec, or 'adaptkit data fix {audio.path}' drops it"
            yield audio.problem(name, utt_id, what, remedy)


def _wrong_durations(audio: _Audio) -> Iterator[Problem]:
    for utt_id, line in audio.tables.get("utt2dur", {}).items():
        stated, seconds = _seconds(line.value), audio.seconds.get(utt_id)
        if seconds and stated > 0 and abs(stated - seconds) > max(0.1, DURATION_TOLERANCE * seconds):
            what = f"{utt_id}: {stated:g} s, but its audio has {seconds:.2f} s"
            remedy = "delete utt2dur if it is out of date; otherwise check the rate of the recording"
            yield audio.problem("utt2dur", utt_id, what, remedy)


def _fast_texts(audio: _Audio) -> Iterator[Problem]:
    for utt_id, line in audio.tables["text"].items():
        seconds = audio.seconds.get(utt_id, 0.0)
        if seconds > 0 and len(line.value) > FASTEST * seconds + 5:  # 5: one short word cut close
            what = f"{utt_id}: {len(line.value)} characters in {seconds:.2f} s, too fast for speech"
            remedy = "check the text and the sampling rate of the recording"
            yield audio.problem("text", utt_id, what, remedy)


def _doubtful_rates(audio: _Audio) -> Iterator[Problem]:
    """Warn of a sampling rate at which all recordings that state it together are too fast for speech."""
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
        return float(value)
    except ValueError:
        return 0.0
