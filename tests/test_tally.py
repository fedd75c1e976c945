"""Counting what limits do, and saying so once in a while."""

from __future__ import annotations

import logging

import pytest

from channelkit._tally import LOG_EVERY, Tally
from channelkit.errors import BadRequest


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_first_time_is_logged_at_once_and_later_ones_together(caplog: pytest.LogCaptureFixture) -> None:
    """Within a minute nothing is said again; then one line has the number of times since."""
    caplog.set_level(logging.DEBUG)
    clock = Clock()
    tally = Tally(clock)
    for second in range(int(2 * LOG_EVERY)):
        clock.now = second
        tally.hit("max_line", f"request {second}")
    assert tally.counts == {"max_line": 120}
    assert [one.getMessage() for one in caplog.records] == [
        "max_line: 1 since the last such line, the latest: request 0",
        "max_line: 60 since the last such line, the latest: request 60",
    ]
    assert {one.levelno for one in caplog.records} == {logging.WARNING}


def test_each_limit_has_its_own_lines(caplog: pytest.LogCaptureFixture) -> None:
    """One limit under attack does not hide another; a clock that begins late changes nothing."""
    caplog.set_level(logging.DEBUG)
    clock = Clock()
    clock.now = 12345.0
    tally = Tally(clock)
    for _ in range(5):
        tally.hit("a")
        tally.hit("b", level=logging.DEBUG)
    assert tally.counts == {"a": 5, "b": 5}
    assert [one.levelno for one in caplog.records] == [logging.WARNING, logging.DEBUG]


def test_an_error_counts_once(caplog: pytest.LogCaptureFixture) -> None:
    """A refusal counts under its limit, else under its status, and not again when its handler lets it out."""
    caplog.set_level(logging.DEBUG)
    tally = Tally(Clock())
    errors = [BadRequest(400, "bad"), BadRequest(400, "bad"), BadRequest(413, "large", limit="max_body")]
    for error in [*errors, *errors]:
        tally.refused(error)
    assert tally.counts == {"refused 400": 2, "max_body": 1}
    assert [one.levelno for one in caplog.records] == [logging.INFO, logging.WARNING]
