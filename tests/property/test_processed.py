"""S10: with ack="processed" an acknowledgement means that the application is through, whatever becomes of the server.

A client that sends what is unacknowledged again, to the next session, has every message processed at least once; what
was acknowledged it may forget.  Handlers fail, return, close and stall at any message; servers die.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from channelkit import Channel, Endpoint, SessionConfig
from channelkit.testing import clock
from channelkit.testing.clock import BACKENDS, Backend
from channelkit.testing.host import open_host
from tests.endpoint.site import Site

Outcome = Literal["fine", "slow", "stuck", "raise", "return", "close", "die"]
OUTCOMES: tuple[Outcome, ...] = ("fine", "fine", "fine", "slow", "slow", "stuck", "raise", "return", "close", "die")
CONFIG = SessionConfig(ack="processed", window=3)


class Failed(Exception):
    """As the plan says."""


class Application:
    """Processes messages as the plan says, one outcome each time one is begun; then all is fine."""

    def __init__(self, outcomes: list[Outcome], style: str) -> None:
        self.outcomes: Iterator[Outcome] = iter(outcomes)
        self.style = style
        self.done: list[str] = []  # in the order in which they were through
        self.dying = anyio.Event()

    def endpoint(self) -> Endpoint:
        self.dying = anyio.Event()
        if self.style == "iteration":
            return Endpoint(self._iterate, session=CONFIG)
        return Endpoint(on_receive=self._take_later if self.style == "async callback" else self._take, session=CONFIG)

    async def _iterate(self, channel: Channel) -> None:
        async for message in channel:
            outcome = await self._process(message)
            if outcome == "close":
                await channel.close()
            if outcome == "return":
                return

    async def _take_later(self, channel: Channel, message: str) -> None:
        if await self._process(message) in ("close", "return"):
            channel.close_nowait()

    def _take(self, channel: Channel, message: str) -> None:
        outcome = next(self.outcomes, "fine")
        if outcome == "raise":
            raise Failed
        if outcome == "die":
            self.dying.set()
        if outcome in ("close", "return"):
            channel.close_nowait()
        self.done.append(message)

    async def _process(self, message: str) -> Outcome:
        outcome: Outcome = next(self.outcomes, "fine")
        if outcome == "slow":
            await anyio.sleep(0.7)
        elif outcome == "stuck":
            await anyio.sleep(5)
        elif outcome == "raise":
            raise Failed
        elif outcome == "die":
            self.dying.set()
            await anyio.sleep(1)
        self.done.append(message)
        return outcome


async def deliver(application: Application, messages: list[str]) -> None:
    """Send `messages`, to as many sessions as it takes, checking every acknowledgement."""
    acked = 0
    for _ in range(len(messages) + 60):
        async with open_host(application.endpoint()) as host:
            acked = await one_session(application, Site(host, None), messages, acked)
        if acked == len(messages):
            return
    raise AssertionError(f"never through: {acked} of {len(messages)}")


async def one_session(application: Application, site: Site, messages: list[str], base: int) -> int:
    """Until all is acknowledged, the session is over, or the server dies; how many are acknowledged then."""
    await site.create()
    acked = base
    for _ in range(400):  # longer than everything can be stuck
        batch = b"".join(
            b'["m",%d,"%s"]\n' % (number - base + 1, messages[number].encode())
            for number in range(acked, min(acked + CONFIG.window, len(messages)))
        )
        answer = await site.session("POST", "?ack=0", batch, Content_Type="application/x-ndjson")
        acked = max(acked, base + int(answer.json.get("ack", 0)))
        missing = set(messages[:acked]) - set(application.done)
        assert not missing, f"S10: acknowledged, and nobody was through with {missing}"
        if acked == len(messages) or answer.status in (404, 409, 410) or application.dying.is_set():
            return acked
        with anyio.move_on_after(0.3):
            await application.dying.wait()
    raise AssertionError("S10: what the application is through with is never acknowledged")


@pytest.mark.parametrize("style", ["iteration", "callback", "async callback"])
@pytest.mark.parametrize("backend", BACKENDS)
@given(
    outcomes=st.lists(st.sampled_from(OUTCOMES), max_size=15), count=st.integers(1, 9), randomness=st.random_module()
)
def test_acknowledged_means_processed(
    backend: Backend, style: str, outcomes: list[Outcome], count: int, randomness: Any
) -> None:
    """S10: what is acknowledged was processed; what is sent again until then is processed at least once, in order."""
    application = Application(outcomes, style)
    messages = [f"message {number}" for number in range(count)]
    clock.run(deliver, application, messages, backend=backend, max_ticks=200_000)
    assert list(dict.fromkeys(application.done)) == messages
