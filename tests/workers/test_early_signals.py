"""SIGTERM before a server hears it, and when none does any more."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from channelkit.workers.early_signals import terminable


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Whatever a test leaves."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_it_is_ctrl_c_until_a_server_has_listened() -> None:
    """From then on it is the server's; one that comes when the server has given it back comes too late."""
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), terminable():
        os.kill(os.getpid(), signal.SIGTERM)
    signal.signal(signal.SIGTERM, before)
    try:
        with terminable() as early:
            early.served = True
            os.kill(os.getpid(), signal.SIGTERM)
    except KeyboardInterrupt:
        pytest.fail("it came too late, and yet interrupted")
    assert signal.getsignal(signal.SIGTERM) is before


def test_an_event_loop_makes_a_group_of_it() -> None:
    """Which is a KeyboardInterrupt again, and the last: whoever ends is not to be disturbed."""
    with pytest.raises(KeyboardInterrupt), terminable():
        raise BaseExceptionGroup("of a nursery", [BaseExceptionGroup("of another", [KeyboardInterrupt()])])
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGINT)


def test_other_errors_go_through() -> None:
    """As they are, and SIGTERM is as before."""
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(BaseExceptionGroup, match="of a nursery"), terminable():
        raise BaseExceptionGroup("of a nursery", [SystemExit(1)])
    assert signal.getsignal(signal.SIGTERM) is before
