"""What the tests of several corpora share."""

import pytest

from adaptkit.kaldi import datadir


@pytest.fixture(scope="session")
def assert_fits_ctc():
    """Assert that no text of a data directory outnumbers its encoder frames, after fourfold subsampling."""

    def check(folder):
        read = datadir.read(folder)
        for u in read.utterances:
            num_frames = (read.duration_sec[u.utt_id] - 0.015) / 0.01  # windows of 25 ms
            doubled = sum(a == b for a, b in zip(u.text, u.text[1:], strict=False))
            assert len(u.text) + doubled <= ((num_frames - 1) // 2 - 1) // 2

    return check
