"""Progress away from a terminal."""

import io
import logging
import sys

from adaptkit import progress


def test_no_line_is_written_within_the_first_minute(caplog):
    with caplog.at_level(logging.INFO), progress.counting("features", 3) as advance:
        advance(1, "")
    assert not caplog.messages


def test_a_line_after_a_minute_tells_count_and_note(caplog, monkeypatch):
    monkeypatch.setattr(progress, "_QUIET_SEC", 0.0)
    with caplog.at_level(logging.INFO), progress.counting("mini", 10, done=4) as advance:
        advance(2, "loss 3.000")
        advance(1, "")
    assert [message.rpartition(", about ")[0] for message in caplog.messages] == [
        "mini: 6 of 10, loss 3.000",
        "mini: 7 of 10",
    ]


def test_the_time_left_follows_from_the_pace_since_the_start(caplog, monkeypatch):
    now = iter([0.0, 90.0, 90.0, 90.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    with caplog.at_level(logging.INFO), progress.counting("mini", 100, done=40) as advance:
        advance(10, "")  # 9 s each
    assert caplog.messages == ["mini: 50 of 100, about 0:07:30 left"]


def test_a_count_inside_another_is_shown_below_it_on_a_terminal(monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress.counting("training", 10) as advance, progress.counting("validating", 4) as inner:
        inner(4, "")
        advance(1, "epoch 1/2")
    assert "training" in terminal.getvalue()
    assert "validating" in terminal.getvalue()
