"""Check the recordings of a data directory against its segments, texts and durations."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from operator import itemgetter
from pathlib import Path

import numpy as np

from adaptkit.errors import DataError, counted
from adaptkit.kaldi.checked_audio import CheckedAudio, Parts, Users, stated_sec
from adaptkit.kaldi.levels import Levels, measure_levels
from adaptkit.kaldi.probing import map_in_jobs
from adaptkit.kaldi.recording import MOST_LEVEL, OVERSHOOT_SEC, Recording, is_command
from adaptkit.kaldi.scan import Checks, Problem, Table

DURATION_TOLERANCE = 0.05  # between utt2dur and the audio: rounding, resampling, frames at the edges
FASTEST = 35  # characters per second in an utterance; at most 27.5 in the digits of FSDD, 18.8 in AN4
FASTEST_POOLED = 25  # over at least a minute; read speech has 10 to 18, so twice the true rate stands out
POOLED_SEC = 60
_AT_A_TIME = 10  # recordings per job; they may be long


def audio_problems(path: Path, tables: dict[str, Table], checks: Checks) -> Iterator[Problem]:
    """Find unusable recordings, and utterances whose times or texts do not match the audio.

    Every recording is decoded, since headers do not reveal a damaged middle, silence or values that are not
    numbers. This takes about a second per hour of FLAC.
    """
    audio = CheckedAudio.of(path, tables, checks)
    if checks.check_audio:
        yield from _decode_all(audio, checks)
    seconds = audio.seconds
    yield from _overshoots(audio)
    yield from _length_problems(audio, seconds, checks)
    yield from _wrong_durations(audio, seconds)
    yield from _fast_texts(audio, seconds)
    yield from _doubtful_rates(audio, seconds)


def _decode_all(audio: CheckedAudio, checks: Checks) -> Iterator[Problem]:
    """Decode each recording of wav.scp, and report those, and the segments, that cannot be used."""
    wav, users = audio.tables["wav.scp"], Users(audio)
    not_run, todo = [], []
    for row, location in enumerate(wav.column):
        if location:
            (not_run if is_command(location) and not checks.allow_pipes else todo).append(row)
    parts = Parts(users, todo)
    measure_some = partial(_measure_some, allow_pipes=checks.allow_pipes)
    made = map_in_jobs(measure_some, parts, num_jobs=checks.num_jobs, what="recordings", size=_AT_A_TIME)
    for row, decoded in zip(todo, chain.from_iterable(made), strict=True):
        if isinstance(decoded, DataError):
            yield _unusable(audio, row, decoded)
            continue
        audio.lengths_sec[row], audio.rates_hz[row] = (
            decoded.recording.duration_sec,
            decoded.recording.rate_hz,
        )
        if decoded.recording.num_channels != 1:
            yield _several_channels(audio, row, decoded.recording)
        else:
            yield from _wrong_levels(audio, users.of(row), decoded)
    if not_run:
        number = int(wav.numbers[not_run[0]])
        what, remedy = (
            f"not checked: {counted(len(not_run), 'recording')} made by commands",
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


def _unusable(audio: CheckedAudio, row: int, error: DataError) -> Problem:
    location = audio.tables["wav.scp"].column[row]
    what, _, remedy = str(error).rpartition("; ")
    cause = what.removeprefix(location).removeprefix(location.rpartition(":")[0]).removeprefix(": ")
    return audio.problem("wav.scp", row, what, remedy, cause=cause, example=location)


def _several_channels(audio: CheckedAudio, row: int, recording: Recording) -> Problem:
    location, cause = recording.location, f"{recording.num_channels} channels where one is needed"
    remedy = "extract the channel to recognise"
    return audio.problem("wav.scp", row, f"{location}: {cause}", remedy, cause=cause, example=location)


def _wrong_levels(audio: CheckedAudio, rows: Sequence[int], decoded: Levels) -> Iterator[Problem]:
    """Report values that are no numbers or far beyond full scale, which are refused, and digital silence."""
    for row, peak in zip(rows, decoded.peaks, strict=True):
        if not peak <= MOST_LEVEL:
            utt_id = audio.lines.ids[row]
            cause, example = "samples far beyond full scale, which is 1", f"{utt_id} ({peak:g})"
            what = f"{utt_id}: samples reach {peak:g}, but full scale is 1"
            remedy = f"convert the recording again, or {audio.repair} drops it"
            yield audio.problem(audio.table, row, what, remedy, cause=cause, example=example)
        # what does not begin within its recording, and end later, is reported elsewhere
        elif not peak and audio.starts_sec[row] < np.fmin(
            audio.ends_sec[row], decoded.recording.duration_sec
        ):
            utt_id, cause = audio.lines.ids[row], "digital silence, every sample is zero"
            yield audio.problem(audio.table, row, f"{utt_id}: {cause}", cause=cause, example=utt_id)


def _overshoots(audio: CheckedAudio) -> Iterator[Problem]:
    if audio.lines is audio.tables["wav.scp"]:
        return
    lengths_sec, ends = audio.own_lengths_sec, np.nan_to_num(audio.ends_sec)
    for row in np.flatnonzero(
        (audio.starts_sec >= lengths_sec) | (ends > lengths_sec + OVERSHOOT_SEC)
    ).tolist():
        utt_id, name = audio.lines.ids[row], audio.tables["wav.scp"].ids[int(audio.places[row])]
        end = f"{ends[row]:g} s" if ends[row] else "its end"
        times = f"{audio.starts_sec[row]:g} s to {end}"
        what = f"{utt_id}: {times} is beyond the {lengths_sec[row]:.2f} s of recording {name}"
        cause, example = "times beyond the end of the recording", f"{utt_id} ({name})"
        yield audio.problem("segments", row, what, cause=cause, example=example)


def _length_problems(audio: CheckedAudio, all_sec: np.ndarray, checks: Checks) -> Iterator[Problem]:
    is_short, is_long = (all_sec > 0) & (all_sec < checks.min_sec), all_sec > checks.max_sec
    for row in np.flatnonzero(is_short | is_long).tolist():
        utt_id, seconds = audio.lines.ids[row], float(all_sec[row])
        if is_short[row]:
            cause, example = f"less than {checks.min_sec:g} s", f"{utt_id} ({seconds:.3f} s)"
            what = f"{utt_id} lasts {seconds:.3f} s, {cause}"
            yield audio.problem(audio.table, row, what, cause=cause, example=example)
        if is_long[row]:
            cause, example = f"more than {checks.max_sec:g} s", f"{utt_id} ({seconds:.2f} s)"
            what = f"{utt_id} lasts {seconds:.2f} s, {cause}"
            remedy = f"cut it with segments, raise --max-sec, or {audio.repair} drops it"
            yield audio.problem(audio.table, row, what, remedy, cause=cause, example=example)


def _wrong_durations(audio: CheckedAudio, all_sec: np.ndarray) -> Iterator[Problem]:
    if "utt2dur" not in audio.tables:
        return
    table = audio.tables["utt2dur"]
    stated = np.fromiter(map(stated_sec, table.column), np.float64)
    own_sec = np.append(all_sec, np.nan)[audio.lines.rows(table.ids)]
    is_off = np.abs(stated - own_sec) > np.maximum(0.1, DURATION_TOLERANCE * own_sec)
    for row in np.flatnonzero((stated > 0) & (own_sec != 0) & is_off).tolist():
        figures = f"{stated[row]:g} s", f"{own_sec[row]:.2f} s"
        what = f"{table.ids[row]}: {figures[0]}, but its audio has {figures[1]}"
        cause, example = "durations that differ from the audio", f"{table.ids[row]} ({', '.join(figures)})"
        remedy = f"check the rate of the recording; if utt2dur is out of date, {audio.repair} drops the line"
        found = audio.problem("utt2dur", row, what, remedy, cause=cause, example=example)
        yield replace(found, utt_id="")  # nothing is wrong with the utterance


def _fast_texts(audio: CheckedAudio, all_sec: np.ndarray) -> Iterator[Problem]:
    texts = audio.tables["text"]
    seconds = np.append(all_sec, np.nan)[audio.lines.rows(texts.ids)]
    counts = np.fromiter(map(len, texts.column), np.int64)
    # 5: one short word cut close
    for row in np.flatnonzero((seconds > 0) & (counts > FASTEST * seconds + 5)).tolist():
        utt_id = texts.ids[row]
        what = f"{utt_id}: {counts[row]} characters in {seconds[row]:.2f} s, too fast for speech"
        cause = "more characters than can be spoken in the time"
        remedy = "check the text and the sampling rate of the recording"
        example = f"{utt_id} ({seconds[row]:.2f} s)"
        yield audio.problem("text", row, what, remedy, cause=cause, example=example)


def _doubtful_rates(audio: CheckedAudio, all_sec: np.ndarray) -> Iterator[Problem]:
    """Warn of a sampling rate at which all recordings that state it together are too fast for speech."""
    texts, wav = audio.tables["text"], audio.tables["wav.scp"]
    counts = np.fromiter(map(len, texts.column), np.int64)
    rows = texts.rows(audio.lines.ids)
    known = np.flatnonzero((rows >= 0) & ~np.isnan(audio.own_lengths_sec))
    rates_hz = audio.rates_hz[audio.places[known]]
    for rate_hz, first in sorted(
        zip(*np.unique(rates_hz, return_index=True), strict=True), key=itemgetter(1)
    ):
        own = known[rates_hz == rate_hz]
        total_sec, characters = float(all_sec[own].sum()), int(counts[rows[own]].sum())
        if total_sec > POOLED_SEC and characters > FASTEST_POOLED * total_sec:
            pace = characters / total_sec
            what = f"recordings with a stated rate of {rate_hz} Hz have {pace:.1f} characters per second"
            remedy = "speech has 10 to 18: check whether the headers state the true rate"
            number = int(wav.numbers[audio.places[known[first]]])
            yield Problem(audio.path / "wav.scp", number, "", what, remedy, is_warning=True)
