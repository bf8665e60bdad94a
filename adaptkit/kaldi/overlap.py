"""Warn of utterances and sentences that a training set shares with test and validation sets."""

import functools
import logging
import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np

from adaptkit.errors import AdaptkitError, listed, shorten
from adaptkit.kaldi import datadir
from adaptkit.kaldi.datadir import DataDir, Utterance
from adaptkit.kaldi.recording import is_command
from adaptkit.kaldi.tables import read_table

NEARLY_ALL = 0.9  # of the utterances: a closed set of sentences, such as digits, rather than a mistake
_NUM_EXAMPLES = 3
_LOG = logging.getLogger(__name__)


def find_shared(train: DataDir, data: DataDir) -> list[str]:
    """Return the utterances of a set that are in the training set, with the same recording and times."""
    seen = set(_spans(train))
    return [utt_id for utt_id, span in zip(data.utterances.ids, _spans(data), strict=True) if span in seen]


def find_repeated(texts: Collection[str], data: DataDir) -> list[Utterance]:
    """Return the utterances of a set whose sentences are among some texts."""
    seen = set(texts) - {""}
    rows = [row for row, text in enumerate(data.utterances.texts) if text in seen]
    return list(data.utterances.take(np.array(rows, np.int64)))


def warn_of_common(train: DataDir, data: DataDir) -> None:
    """Warn of utterances and sentences of a set that are also in the training set."""
    shared = find_shared(train, data)
    if shared:
        figures = (data.path, len(shared), len(data.utterances), train.path, listed(shared, _NUM_EXAMPLES))
        what = "are in the training set"
        why = (
            "results on them say nothing of unseen data; remove them from either set ('adaptkit data subset')"
        )
        _LOG.warning(f"%s: %d of %d utterances {what} %s: %s; {why}", *figures)
    if len(shared) < len(data.utterances):
        warn_of_sentences(train.path, train.utterances.texts, data)


def warn_of_tests(train: DataDir, paths: Sequence[Path]) -> None:
    """Warn as `warn_of_common` does for test sets, also of those that cannot be read yet."""
    for path in paths:
        try:
            warn_of_common(train, datadir.read(path, needs_text=False))
        except AdaptkitError as error:
            _LOG.warning("the test set is not compared with the training set: %s", error)


def warn_of_sentences(train: Path, texts: Collection[str], data: DataDir) -> None:
    """Warn of sentences of a set that are also in a training set; if nearly all are, only log it."""
    repeated, num_all = find_repeated(texts, data), sum(map(bool, data.utterances.texts))
    if not repeated:
        return
    figures = (data.path, len(repeated), num_all, train)
    if len(repeated) >= NEARLY_ALL * num_all:
        _LOG.info("%s: the sentences of %d of %d utterances are in %s too", *figures)
        return
    first = {u.text: u.utt_id for u in reversed(repeated)}
    examples = [f"'{shorten(text, 60)}' ({utt_id})" for text, utt_id in reversed(first.items())]
    shown = listed(examples, _NUM_EXAMPLES)
    remedy = "'adaptkit data split --disjoint-texts' makes sets that share none"
    what = "are in the training set"
    _LOG.warning(f"%s: the sentences of %d of %d utterances {what} %s: %s; {remedy}", *figures, shown)


def read_texts(path: Path) -> list[str]:
    """Return the texts of a data directory; none if it can no longer be read."""
    try:
        return list(read_table(path / "text").values())
    except AdaptkitError:
        return []


def _spans(data: DataDir) -> Iterator[tuple[str, float, float]]:
    """Yield the recording of each utterance, as an absolute path if it is a file, and its times to 1 ms."""
    utterances = data.utterances
    place = functools.lru_cache(1 << 16)(lambda name: _place(data.recordings[name]))
    starts, ends = utterances.starts_sec, np.nan_to_num(utterances.ends_sec, nan=-1.0)
    times = (column.round(3).tolist() for column in (starts, ends))
    return zip(map(place, utterances.recordings), *times, strict=True)


def _place(location: str) -> str:
    return location if is_command(location) else os.path.abspath(location)
