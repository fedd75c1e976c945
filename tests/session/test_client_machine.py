"""The client's machine by hand, where a live test would need luck: ends that cross."""

from __future__ import annotations

from channelkit.session.actions import Create, Ended, Kind, Post
from channelkit.session.client import ClientConfig, ClientSession
from channelkit.session.frames import End, Hello, Terms, Text


def opened() -> ClientSession:
    """A session that was created and had its hello."""
    machine = ClientSession(ClientConfig(), lambda: 0.5)
    assert machine.start(Kind.POLL, 0.0) == [Create(1)]
    terms = Terms(window=10, window_bytes=1000, max_message=1000, ping=20, grace=30)
    machine.created(Hello(0, "S" * 22, 1, terms, secret="secret"), 0.0)
    return machine


def test_two_ends_that_cross() -> None:
    """Our end meets a server that has closed in order: clean if all of ours was taken, else a loss that is told."""
    for acknowledged, outcome, unacknowledged in ((2, "ended", 0), (1, "lost", 0), (0, "lost", 1)):
        machine = opened()
        actions = machine.send("last", 0.0)
        actions += machine.close(1000, "bye", 0.0)
        post = next(one for one in actions if isinstance(one, Post))
        assert post.frames[0] == Text(1, "last")
        actions = machine.posted(post.number, 410, "ended", acknowledged, 1.0)
        ending = next(one.ending for one in actions if isinstance(one, Ended))
        assert (ending.outcome, ending.clean) == (outcome, outcome == "ended")
        assert ending.unacknowledged == unacknowledged
        assert machine.closing == End(2, 1000, "bye")


def test_a_session_that_is_gone_is_lost() -> None:
    """Any other end that is not ours is told as a loss."""
    for status, code in ((410, "lost"), (410, "abandoned"), (404, "unknown")):
        machine = opened()
        actions = machine.send("last", 0.0)
        post = next(one for one in actions if isinstance(one, Post))
        actions = machine.posted(post.number, status, code, None, 1.0)
        ending = next(one.ending for one in actions if isinstance(one, Ended))
        assert (ending.outcome, ending.clean) == ("lost", False)
