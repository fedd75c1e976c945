"""The tally: everything is counted, little is logged."""

from __future__ import annotations

import pytest

from channelkit._tally import EVERY, Tally


def test_counted_always_logged_once_in_a_while(caplog: pytest.LogCaptureFixture) -> None:
    """A flood gives one line at once and one a minute later, each with how many came since; others have their own."""
    now = 0.0
    tally = Tally(lambda: now)
    for _ in range(1000):
        tally.hit("max_ws")
    tally.hit("pong_timeout")
    now = EVERY
    tally.hit("max_ws")
    assert tally.counts == {"max_ws": 1001, "pong_timeout": 1}
    assert [record.getMessage() for record in caplog.records] == [
        "max_ws: 1 connections ran into this limit (1 so far)",
        "pong_timeout: 1 connections ran into this limit (1 so far)",
        "max_ws: 1000 connections ran into this limit (1001 so far)",
    ]
