import pytest

from adaptkit.errors import DataError
from adaptkit.kaldi import datadir
from adaptkit.kaldi.summary import Summary, summarise


def test_directory_is_counted(folder):
    folder.write("spk2group", "anna adult\nbert child\n")
    assert summarise(datadir.read(folder.path)) == Summary(
        num_utterances=4,
        num_speakers=2,
        num_tasks=2,
        num_groups=2,
        num_words=6,
        total_sec=4.0,
        min_sec=1.0,
        max_sec=1.0,
        num_recordings_by_hz={8000: 4},
        has_feats=False,
    )


def test_segments_count_by_their_times(segmented):
    segmented.edit("segments", b"anna 1.000 2.000", b"anna 1.5 -1")
    summary = summarise(datadir.read(segmented.path))
    assert (summary.total_sec, summary.mean_sec, summary.min_sec) == (3.5, 0.875, 0.5)


def test_command_that_is_not_run_counts_by_utt2dur(folder):
    folder.edit("wav.scp", b"anna-1 ", b"anna-1 false ")
    folder.edit("wav.scp", b".wav", b".wav |")
    with pytest.raises(DataError, match="--allow-pipes runs it"):
        summarise(datadir.read(folder.path))
    folder.write("utt2dur", "anna-1 2.5\n")
    assert summarise(datadir.read(folder.path)).max_sec == 2.5
