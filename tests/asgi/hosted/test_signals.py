"""Signals are heard beside whoever handles them, and never change what they do."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from channelkit.asgi.hosted.signals import heard_signals


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """The handlers of the test run itself come back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


class Ears:
    """What a host and what we heard, in order."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def host(self, number: int, frame: Any) -> None:
        self.heard.append(f"host {signal.Signals(number).name}")

    def ours(self) -> None:
        self.heard.append("ours")


def test_both_hear_it() -> None:
    """First we, then the host; and afterwards the host alone, as before."""
    ears = Ears()
    signal.signal(signal.SIGTERM, ears.host)
    handler = signal.getsignal(signal.SIGTERM)
    with heard_signals(ears.ours, True):
        os.kill(os.getpid(), signal.SIGTERM)
        assert ears.heard == ["ours", "host SIGTERM"]
    assert signal.getsignal(signal.SIGTERM) == handler
    os.kill(os.getpid(), signal.SIGTERM)
    assert ears.heard == ["ours", "host SIGTERM", "host SIGTERM"]


def test_nobody_handles_it() -> None:
    """Where the default stands, or Python's own Ctrl-C, it stays: the program wants that."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    ears = Ears()
    with heard_signals(ears.ours, True):
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert ears.heard == []


def test_ignored_by_a_main_program() -> None:
    """A program that ignores Ctrl-C goes on ignoring it; only a worker leaves it to its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ears = Ears()
    with heard_signals(ears.ours, True):
        os.kill(os.getpid(), signal.SIGINT)
    assert ears.heard == []


def test_two_applications() -> None:
    """Each hears it, whichever of them leaves first."""
    ears = Ears()
    signal.signal(signal.SIGTERM, ears.host)
    first = heard_signals(ears.ours, True)
    second = heard_signals(ears.ours, True)
    first.__enter__()
    second.__enter__()
    os.kill(os.getpid(), signal.SIGTERM)
    assert ears.heard == ["ours", "ours", "host SIGTERM"]
    first.__exit__(None, None, None)
    ears.heard.clear()
    os.kill(os.getpid(), signal.SIGTERM)
    assert ears.heard == ["ours", "host SIGTERM"]
    second.__exit__(None, None, None)
    ears.heard.clear()
    os.kill(os.getpid(), signal.SIGTERM)
    assert ears.heard == ["host SIGTERM"]


def test_somebody_comes_in_front_of_us() -> None:
    """Who replaces our handler and keeps it for later finds that it passes on."""
    ears = Ears()
    signal.signal(signal.SIGTERM, ears.host)
    with heard_signals(ears.ours, True):
        link: Any = signal.getsignal(signal.SIGTERM)
        signal.signal(signal.SIGTERM, partial(link))
    os.kill(os.getpid(), signal.SIGTERM)
    assert ears.heard == ["host SIGTERM"]


@pytest.mark.parametrize("where", ["unwanted", "thread"])
def test_not_ours_to_hear(where: str) -> None:
    """Not when it is switched off, and not in another thread than the main one."""
    ears = Ears()
    signal.signal(signal.SIGTERM, ears.host)
    handler = signal.getsignal(signal.SIGTERM)
    seen: list[Any] = []

    def run() -> None:
        with heard_signals(ears.ours, where == "thread"):
            seen.append(signal.getsignal(signal.SIGTERM))

    if where == "thread":
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    else:
        run()
    assert seen == [handler]
