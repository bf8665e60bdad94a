"""Subsets and unions of data directories, as made by Kaldi's subset_data_dir.sh and combine_data.sh."""

import logging
import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TypeVar

import numpy as np

from adaptkit import locks
from adaptkit.errors import DataError, counted, listed, nearest
from adaptkit.files import read_text, remove, write_text
from adaptkit.kaldi import datadir
from adaptkit.kaldi.datadir import DataDir, Utterance
from adaptkit.kaldi.tables import SIDE_TABLES

Value = TypeVar("Value")
_UNREAD = {*chain.from_iterable(SIDE_TABLES.values())} - {
    "utt2num_frames"
}  # Kaldi's tables that are not read

log = logging.getLogger(__name__)


def subset(data: DataDir, utt_ids: Iterable[str], *, path: Path) -> DataDir:
    """Return a directory `path` with some utterances and their data; unknown ids are a DataError."""
    wanted = set(utt_ids)
    ids = list(data.utterances.ids)
    _refuse_unknown(data, wanted, set(ids), "utterances")
    if not wanted:
        raise DataError(f"{data.path}: the subset has no utterances; ask for at least one")
    rows = np.flatnonzero(np.fromiter(map(wanted.__contains__, ids), bool, len(ids)))
    utterances = data.utterances.take(rows)
    return replace(
        data,
        path=Path(path),
        utterances=utterances,
        recordings={name: data.recordings[name] for name in set(utterances.recordings)},
        feats=_part(data.feats, wanted),
        duration_sec=_part(data.duration_sec, wanted),
    )


def choose_first(data: DataDir, number: int) -> list[str]:
    """Choose the first utterances in the order of their ids."""
    return list(data.utterances.ids[: _at_most(data, number)])


def choose_random(data: DataDir, number: int, *, seed: int) -> list[str]:
    """Choose utterances at random, reproducibly by the seed."""
    return sorted(random.Random(seed).sample(data.utterances.ids, _at_most(data, number)))


def choose_per_speaker(data: DataDir, number: int) -> list[str]:
    """Choose up to `number` utterances of each speaker, evenly spaced; Kaldi takes every k-th."""
    groups = defaultdict(list)
    for utt_id, speaker in zip(data.utterances.ids, data.utterances.speakers, strict=True):
        groups[speaker].append(utt_id)
    return [utt_id for group in groups.values() for utt_id in _spaced(group, number)]


def choose_speakers(data: DataDir, speakers: Iterable[str]) -> list[str]:
    """Choose every utterance of some speakers; unknown speakers are a DataError."""
    wanted = set(speakers)
    ids, speakers = data.utterances.ids, data.utterances.speakers
    _refuse_unknown(data, wanted, set(speakers.used()), "speakers")
    return [utt_id for utt_id, speaker in zip(ids, speakers, strict=True) if speaker in wanted]


def combine(parts: Sequence[DataDir], *, path: Path) -> DataDir:
    """Combine data directories as `path`; an id may occur in several of them only with the same content.

    Features, durations and groups are kept if every part has them; dropped features and groups are logged.
    """
    utterances = _combine(parts, _keep_groups(parts), "utterances")
    return DataDir(
        path=Path(path),
        utterances=tuple(sorted(utterances.values(), key=_order)),
        recordings=_combine(parts, [part.recordings for part in parts], "recordings"),
        feats=_combine_optional(parts, [part.feats for part in parts], "features"),
        duration_sec=_combine_optional(parts, [part.duration_sec for part in parts], "durations"),
    )


def save(made: DataDir, parts: Sequence[DataDir]) -> None:
    """Write a directory made from others, with the options (feats.json) of their features.

    It is no data directory, for want of `wav.scp`, before the options are there: without them, features count
    as Kaldi's own, which are not checked.
    """
    if any(made.path.resolve() == part.path.resolve() for part in parts):
        raise DataError(f"{made.path}: would overwrite the directory it is made from; choose another folder")
    files = [part.path / "feats.json" for part in parts] if made.feats else []
    options = {read_text(file) if file.exists() else "" for file in files}
    if len(options) > 1:
        raise DataError(f"{listed(map(str, files))}: different features; extract those of {made.path} again")
    left = {name for part in parts for name in _UNREAD if (part.path / name).exists()}
    if left:
        log.info("%s: written without %s, which adaptkit does not use", made.path, listed(sorted(left)))
    with locks.hold(made.path):
        for name in ("wav.scp", "feats.json", "utt2num_frames"):  # of what was there before
            remove(made.path / name)
        for text in filter(None, options):
            write_text(made.path / "feats.json", text)
        datadir.write(made)


def _order(utterance: Utterance) -> bytes:
    return utterance.utt_id.encode()


def _part(table: Mapping[str, Value] | None, keys: set[str]) -> dict[str, Value] | None:
    return None if table is None else {key: value for key, value in table.items() if key in keys}


def _at_most(data: DataDir, number: int) -> int:
    if number > len(data.utterances):
        size = counted(len(data.utterances), "utterance")
        raise DataError(f"{data.path}: has {size}, not {number}; ask for fewer")
    return number


def _spaced(items: Sequence[str], number: int) -> list[str]:
    """Return `number` evenly spaced items, or all if there are fewer.

    >>> _spaced("abcdefgh", 4)
    ['a', 'c', 'e', 'g']
    """
    number = min(number, len(items))
    return [items[index * len(items) // number] for index in range(number)]


def _refuse_unknown(data: DataDir, wanted: set[str], known: set[str], what: str) -> None:
    unknown = sorted(wanted - known)
    if unknown:
        raise DataError(f"{data.path}: has no {what} {listed(unknown)}{nearest(unknown[0], known)}")


def _combine(parts: Sequence[DataDir], tables: Sequence[Mapping[str, Value]], what: str) -> dict[str, Value]:
    """Combine tables; a key with two values is a DataError that names both directories."""
    combined: dict[str, Value] = {}
    sources: dict[str, Path] = {}
    clashes = []
    for part, table in zip(parts, tables, strict=True):
        for key, value in table.items():
            if combined.setdefault(key, value) != value:
                clashes.append(f"{key} ({sources[key]}, {part.path})")
            sources.setdefault(key, part.path)
    if clashes:
        raise DataError(f"conflicting {what}: {listed(clashes)}; prefix the ids of one directory")
    return combined


def _keep_groups(parts: Sequence[DataDir]) -> list[dict[str, Utterance]]:
    """Return the utterances of each part by id, without groups unless all have one."""
    groups = [part.utterances.groups.used() for part in parts]
    without = [str(part.path) for part, names in zip(parts, groups, strict=True) if "" in names]
    is_mixed = bool(without) and any(any(names) for names in groups)
    if is_mixed:
        log.warning("no groups are kept, since %s has none; write its utt2group first", listed(without))
    return [{u.utt_id: replace(u, group="") if is_mixed else u for u in part.utterances} for part in parts]


def _combine_optional(
    parts: Sequence[DataDir], tables: Sequence[Mapping[str, Value] | None], what: str
) -> dict[str, Value] | None:
    present = [table for table in tables if table is not None]
    if what == "features" and 0 < len(present) < len(parts):
        without = listed(str(part.path) for part, table in zip(parts, tables, strict=True) if table is None)
        log.warning("no features are kept, since %s has none; run 'adaptkit feats' on it first", without)
    return _combine(parts, present, what) if len(present) == len(parts) else None
