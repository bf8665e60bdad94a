"""Extract the features of a data directory, shard by shard: `data/<set>` becomes `dump/<set>`."""

import hashlib
import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain, groupby, islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from adaptkit import locks
from adaptkit.errors import AdaptkitError, DataError, counted, listed, shell_word
from adaptkit.features import jobs
from adaptkit.features.archive import find_damage, read_record, write_archive, write_record
from adaptkit.features.fbank import FbankOptions, log_mel
from adaptkit.files import remove, write_text
from adaptkit.kaldi import datadir
from adaptkit.kaldi.audio import read_segments
from adaptkit.kaldi.datadir import DataDir, Utterance
from adaptkit.kaldi.durations import recording_rows
from adaptkit.kaldi.recording import stamp_recording
from adaptkit.kaldi.tables import write_table
from adaptkit.progress import counting

SHARD_UTTERANCES = 500  # per ark file; a killed run loses at most one file
PIECE_UTTERANCES = 50  # consecutive utterances for which a recording is opened once
MOST_FAILED = 0.05  # share of the utterances
MOST_SHOWN = 500  # characters of a reason in a message

log = logging.getLogger(__name__)


def extract(
    data_dir: Path,
    out_dir: Path,
    options: FbankOptions,
    *,
    num_jobs: int = 1,
    allow_pipes: bool = False,
    cmd: Sequence[str] = (),
) -> DataDir:
    """Extract the features of a data directory and write both to `out_dir`, usually `dump/<set>`.

    In addition to the tables it writes `feats.N.ark` with `feats.N.json` (the content, checksums and sources
    of ark N), `feats.json` (the options) and `utt2num_frames`. Locations in feats.scp are absolute, as
    written by Kaldi's make_fbank.sh, so that they are valid from any folder. Intact arks made from the same
    speech with the same options are kept, so that a killed run can be continued. Utterances that fail are
    left out; if their share exceeds MOST_FAILED, this is a DataError.

    With `cmd`, such as `["queue.pl"]`, arks are made by an array of `num_jobs` jobs (see `jobs`). Otherwise
    `num_jobs` threads make them: the work is done in libraries that release the interpreter lock, and a
    process would spend longer importing torch (3 s) than extracting AN4.
    """
    data, out_dir = datadir.read(data_dir, needs_text=False), Path(out_dir).resolve()
    if out_dir == Path(data_dir).resolve():
        raise DataError(f"{out_dir}: features need a separate folder, such as dump/{out_dir.name}")
    shards = list(_plan(data, out_dir, options))
    with locks.hold(out_dir):
        jobs.take_over({shard.number: shard.made_of for shard in shards}, out_dir)
        reasons = _find_reasons(shards, num_jobs)
        todo = [shard for shard, reason in zip(shards, reasons, strict=True) if reason]
        if todo:
            _log_restart(out_dir, shards, reasons)
            remove(out_dir / "feats.scp")
            if cmd:
                array = jobs.Array(tuple(cmd), Path(data_dir), out_dir, options, num_jobs, allow_pipes)
                jobs.run(array, {shard.number: shard.made_of for shard in todo})
            else:
                _make(data, todo, options, num_jobs=num_jobs, allow_pipes=allow_pipes)
        _remove_leftovers(out_dir, len(shards))
        return _finish(data, out_dir, shards, options)


def extract_part(
    data_dir: Path, part: Path, job: int, options: FbankOptions, *, allow_pipes: bool = False
) -> None:
    """Make the arks of one job of an array in the array's folder, from which `extract` takes them."""
    numbers = jobs.read_share(part, job)
    data = datadir.read(data_dir, needs_text=False)
    shards = list(_plan(data, Path(part).resolve(), options, numbers))
    _make(data, shards, options, num_jobs=1, allow_pipes=allow_pipes)


@dataclass(frozen=True)
class _Made:
    """The result for one utterance: features (T, F), or the reason for having none."""

    utt_id: str
    feats: np.ndarray | None = None
    duration_sec: float = 0.0
    failure: str = ""


@dataclass(frozen=True)
class _Piece:
    """Consecutive utterances for which a recording is opened once."""

    location: str
    utterances: tuple[Utterance, ...]


@dataclass(frozen=True)
class _Shard:
    """The utterances of one ark file; `made_of` is a digest of everything that affects the features."""

    number: int
    ark: Path
    rows: np.ndarray  # of the utterances
    made_of: str = field(repr=False)


def _plan(
    data: DataDir, folder: Path, options: FbankOptions, numbers: Collection[int] | None = None
) -> Iterator[_Shard]:
    """Divide the utterances among arks, in the order of recordings, independent of the number of jobs.

    With `numbers` only these arks are returned.
    """
    ordered = np.lexsort((np.arange(len(data.utterances)), data.utterances.starts_sec, recording_rows(data)))
    for number, start in enumerate(range(0, len(ordered), SHARD_UTTERANCES), start=1):
        if numbers is None or number in numbers:
            rows = ordered[start : start + SHARD_UTTERANCES]
            content = [options.to_dict(), [_sources(piece) for piece in _pieces(data, rows)]]
            made_of = hashlib.sha256(json.dumps(content).encode())
            yield _Shard(number, folder / f"feats.{number}.ark", rows, made_of.hexdigest())


def _pieces(data: DataDir, rows: np.ndarray) -> Iterator[_Piece]:
    for recording, group in groupby(data.utterances.take(rows), key=lambda u: u.recording):
        while piece := tuple(islice(group, PIECE_UTTERANCES)):
            yield _Piece(data.recordings[recording], piece)


def _sources(piece: _Piece) -> list:
    """Return everything that the features of a piece depend on."""
    spans = [(u.utt_id, u.start_sec, u.end_sec) for u in piece.utterances]
    return [piece.location, spans, *stamp_recording(piece.location)]


def _find_reasons(shards: list[_Shard], num_jobs: int) -> list[str]:
    """Return why each ark has to be made, empty if it is kept; arks are read to verify their checksums."""
    with ThreadPoolExecutor(num_jobs) as pool:
        return list(pool.map(lambda shard: find_damage(shard.ark, shard.made_of), shards))


def _log_restart(out_dir: Path, shards: list[_Shard], reasons: list[str]) -> None:
    kept = reasons.count("")
    if kept:
        log.info("%s: %d of %d arks exist already and are kept", out_dir, kept, len(shards))
    stale = [reason for shard, reason in zip(shards, reasons, strict=True) if reason and shard.ark.exists()]
    for reason, count in sorted(Counter(stale).items()):
        log.info("%s: making %s again: %s", out_dir, counted(count, "ark"), reason)


def _make(
    data: DataDir, todo: list[_Shard], options: FbankOptions, *, num_jobs: int, allow_pipes: bool
) -> None:
    """Write arks one after the other, extracting the pieces of each in `num_jobs` threads."""
    num_utterances = sum(len(shard.rows) for shard in todo)
    started, seconds = time.monotonic(), 0.0
    with (
        _one_torch_thread(),
        ThreadPoolExecutor(num_jobs) as pool,
        counting("features", num_utterances) as advance,
    ):
        for shard in todo:
            pieces = _pieces(data, shard.rows)
            made = pool.map(lambda piece: _make_piece(piece, options, allow_pipes), pieces)
            seconds += _write_shard(shard, chain.from_iterable(made), advance)
    took = time.monotonic() - started
    figures = (counted(num_utterances, "utterance"), seconds / 3600, took, seconds / took)
    log.info("features: %s, %.2f hours in %.1f s, %.0f times real time", *figures)


def _make_piece(piece: _Piece, options: FbankOptions, allow_pipes: bool) -> list[_Made]:
    """Extract the features of a piece; if the recording cannot be opened, all its utterances fail."""
    spans = [(utterance.start_sec, utterance.end_sec) for utterance in piece.utterances]
    segments = read_segments(piece.location, spans, rate_hz=options.rate_hz, allow_pipes=allow_pipes)
    try:
        return [
            _make_one(utterance.utt_id, speech, options)
            for utterance, speech in zip(piece.utterances, segments, strict=True)
        ]
    except AdaptkitError as error:
        return [_Made(utterance.utt_id, failure=str(error)) for utterance in piece.utterances]


def _make_one(utt_id: str, speech: Tensor | AdaptkitError, options: FbankOptions) -> _Made:
    if isinstance(speech, AdaptkitError):
        return _Made(utt_id, failure=str(speech))
    try:
        return _Made(utt_id, log_mel(speech, options).numpy(), len(speech) / options.rate_hz)
    except DataError as error:
        return _Made(utt_id, failure=str(error))


def _write_shard(shard: _Shard, made: Iterable[_Made], advance: Callable[[int, str], None]) -> float:
    """Write an ark, then its record, and return the seconds of speech in it."""
    seconds, failures = {}, {}

    def matrices() -> Iterator[tuple[str, np.ndarray]]:
        for one in made:
            advance(1, "")
            if one.feats is None:
                failures[one.utt_id] = one.failure
            else:
                seconds[one.utt_id] = one.duration_sec
                yield one.utt_id, one.feats

    record = write_archive(shard.ark, matrices(), made_of=shard.made_of)
    if failures:
        log.warning("no features for %s: %s", counted(len(failures), "utterance"), _reasons(failures))
    write_record(shard.ark, replace(record, seconds=seconds, failures=failures))
    return sum(seconds.values())


def _finish(data: DataDir, out_dir: Path, shards: list[_Shard], options: FbankOptions) -> DataDir:
    """Write the data directory for the content of the arks, unless too many utterances are missing."""
    feats, num_frames, duration_sec, failures = {}, {}, {}, {}
    for shard in shards:
        record = read_record(shard.ark)
        failures |= record.failures
        duration_sec |= record.seconds
        for utt_id, (offset, *_) in record.entries.items():
            feats[utt_id], num_frames[utt_id] = f"{shard.ark}:{offset}", str(record.frames[utt_id])
    _refuse_few(data, failures)
    kept = [row for row, utt_id in enumerate(data.utterances.ids) if utt_id in feats]
    utterances = data.utterances.take(np.array(kept, np.int64))
    recordings = {name: data.recordings[name] for name in set(utterances.recordings)}
    made = DataDir(out_dir, utterances, recordings, feats, duration_sec)
    write_text(out_dir / "feats.json", json.dumps(options.to_dict(), indent=2) + "\n")
    write_table(out_dir / "utt2num_frames", num_frames)
    datadir.write(made)
    return made


def _refuse_few(data: DataDir, failures: Mapping[str, str]) -> None:
    total = len(data.utterances)
    if len(failures) <= MOST_FAILED * total:
        return
    remedy = f"'adaptkit data validate {shell_word(data.path)}' checks every recording"
    raise DataError(
        f"{data.path}: no features for {len(failures)} of {counted(total, 'utterance')}: "
        f"{_reasons(failures)}; {remedy}"
    )


def _reasons(failures: Mapping[str, str]) -> str:
    """Name the first reasons, each with its first utterances; the remedy is at the end of a reason."""
    groups: dict[str, list[str]] = {}
    for utt_id, why in failures.items():
        groups.setdefault(why if len(why) < MOST_SHOWN else f"{why[:100]}...{why[-100:]}", []).append(utt_id)
    shown = [f"{listed(utt_ids, 3)} ({why})" for why, utt_ids in list(groups.items())[:5]]
    return ", ".join(shown) + (f" and {len(groups) - 5} more" if len(groups) > 5 else "")


def _remove_leftovers(out_dir: Path, last: int) -> None:
    """Remove the arks of an earlier, larger set."""
    for record in out_dir.glob("feats.*.json"):
        number = record.name.split(".")[1]
        if number.isdigit() and int(number) > last:
            remove(record.with_suffix(".ark"))
            remove(record)


@contextmanager
def _one_torch_thread() -> Iterator[None]:
    """Limit torch to one thread within each of ours; more would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
