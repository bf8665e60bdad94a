"""The benchmark of corpora: what it makes is valid, and every step is measured on it."""

import pytest

from adaptkit.bench import corpus as bench
from adaptkit.bench.corpus_start import measure_start
from adaptkit.config import find_published
from adaptkit.kaldi import datadir
from adaptkit.kaldi.summary import summarise
from adaptkit.kaldi.validate import find_problems


@pytest.mark.parametrize("has_segments", [True, False])
def test_corpus_that_is_made_is_valid(tmp_path, has_segments):
    path = bench.make_corpus(tmp_path, 230, has_segments=has_segments)
    assert find_problems(path) == []
    data = datadir.read(path)
    summary = summarise(data)
    assert (summary.num_utterances, summary.num_speakers) == (230, 3)
    assert len(data.recordings) == (3 if has_segments else 230)
    assert 0.99 < summary.min_sec < summary.max_sec < 2.91


@pytest.mark.slow
def test_every_step_is_measured(tmp_path):
    path = bench.make_corpus(tmp_path, 300, has_segments=True)
    costs = list(bench.measure_corpus(path, num_jobs=1))
    costs += measure_start(path, find_published("base", "conformer_6x96_hybrid"))
    assert [cost.name for cost in costs] == [
        *("read", "info", "validate --no-audio", "validate"),
        *("start: read, lengths", "start: plan an epoch"),
    ]
    assert all(cost.cpu_sec > 0 and cost.peak_mb > 20 for cost in costs)
