"""Progress away from a terminal."""

import logging

from adaptkit import progress


def test_no_line_is_written_within_the_first_minute(caplog):
    with caplog.at_level(logging.INFO), progress.counting("features", 3) as advance:
        advance(1, "")
    assert not caplog.messages


def test_a_line_after_a_minute_tells_count_and_note(caplog, monkeypatch):
    monkeypatch.setattr(progress, "_QUIET_SEC", 0.0)
    with caplog.at_level(logging.INFO), progress.counting("mini epoch 1/2", 10, done=4) as advance:
        advance(2, "loss 3.000")
        advance(1, "")
    assert caplog.messages == ["mini epoch 1/2: 6 of 10, loss 3.000", "mini epoch 1/2: 7 of 10"]
