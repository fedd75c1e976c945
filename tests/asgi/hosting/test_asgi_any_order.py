"""Whatever an application sends, in whatever order: one well-formed response or a cut connection, never two.

A model that knows the rules only (no bytes, no loop) foretells what the client sees; h11 reads what it saw.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import anyio
import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from channelkit import ASGIHandler
from channelkit.testing import clock
from channelkit.testing.clock import BACKENDS, Backend
from channelkit.testing.host import open_host, read_all

Message = dict[str, Any]

START = {"type": "http.response.start", "status": 200, "headers": []}
MESSAGES: dict[str, Any] = {
    "start": START,
    "start of 3": START | {"headers": [(b"content-length", b"3")]},
    "start 204": START | {"status": 204},
    "start bad": START | {"headers": [(b"bad\n", b"")]},
    "ab": {"type": "http.response.body", "body": b"ab", "more_body": True},
    "c": {"type": "http.response.body", "body": b"c", "more_body": True},
    "": {"type": "http.response.body", "more_body": True},
    "end": {"type": "http.response.body"},
    "c end": {"type": "http.response.body", "body": b"c"},
    "unknown": {"type": "http.response.push"},
    "no message": None,
}
OTHERS = ("receive", "sleep", "raise", "cancelled")
steps = st.lists(st.sampled_from([*MESSAGES, *OTHERS]), max_size=8)


@dataclass
class Model:
    """What a client must see of an application that takes these steps and goes on after its errors."""

    status: int = 0
    length: int | None = None
    body: bytes = b""
    begun: bool = False
    whole: bool = False
    cut: bool = False
    errors: list[str] = field(default_factory=list)

    def take(self, step: str) -> bool:
        """One step; False if it is the last."""
        if step == "raise":
            return False
        if step in MESSAGES and not self.cut and not self._send(step):
            self.errors.append(step)
        return True

    def _send(self, step: str) -> bool:
        message = MESSAGES[step]
        if self.whole or step in ("unknown", "no message", "start bad"):
            return False
        if step.startswith("start"):
            if self.status:
                return False
            self.status = message["status"]
            self.length = 3 if step == "start of 3" else None
            return True
        if not self.status:
            return False
        self._body(message.get("body", b""), bool(message.get("more_body")))
        return True

    def _body(self, data: bytes, more: bool) -> None:
        self.begun = True
        if self.status != 204:
            self.body += data
        too_long = self.length is not None and len(self.body) > self.length
        too_short = self.length is not None and not more and len(self.body) < self.length
        self.cut = too_long or too_short
        self.whole = not more and not self.cut

    def end(self) -> None:
        if self.whole or self.cut:
            return
        if self.begun:
            self.cut = True
        else:
            self.status, self.body, self.whole = 500, b"Internal Server Error\n", True


def application(plan: list[str], errors: list[str]) -> Any:
    """Takes the steps of `plan` for "/first"; answers anything else."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] != "/first":
            await send(START)
            await send({"type": "http.response.body", "body": b"second"})
            return
        for step in plan:
            if step == "raise":
                raise RuntimeError("as the plan says")
            if step == "sleep":
                await anyio.sleep(1)
            elif step == "receive":
                with anyio.move_on_after(1):
                    await receive()
            elif step == "cancelled":
                with anyio.CancelScope() as cancelled:
                    cancelled.cancel()
                    await receive()
                    await anyio.sleep(1)
            else:
                try:
                    await send(MESSAGES[step])
                except (RuntimeError, TypeError, ValueError):
                    errors.append(step)

    return app


def responses(data: bytes) -> list[tuple[int, bytes, bool]]:
    """What h11 reads: status, body, whether it is whole."""
    client = h11.Connection(h11.CLIENT)
    found: list[tuple[int, bytes, bool]] = []
    client.receive_data(data)
    client.receive_data(b"")
    with suppress(h11.RemoteProtocolError):  # cut in the middle
        while True:
            if client.our_state is h11.IDLE:
                client.send(h11.Request(method="GET", target="/", headers=[("Host", "x")]))
                client.send(h11.EndOfMessage())
            event = client.next_event()
            if isinstance(event, h11.Response):
                found.append((event.status_code, b"", False))
            elif isinstance(event, h11.Data):
                found[-1] = (found[-1][0], found[-1][1] + event.data, False)
            elif isinstance(event, h11.EndOfMessage):
                found[-1] = (*found[-1][:2], True)
                if client.their_state is not h11.DONE:
                    break
                client.start_next_cycle()
            else:
                break
    return found


@pytest.mark.parametrize("backend", BACKENDS)
@given(plan=steps)
@settings(deadline=None)
def test_any_order(backend: Backend, plan: list[str]) -> None:
    """The client sees what the model says, and then the answer to its second request, or the end."""
    model = Model()
    for step in plan:
        if not model.take(step):
            break
    model.end()
    errors: list[str] = []

    async def main() -> bytes:
        async with open_host(ASGIHandler(application(plan, errors))) as host:
            stream = host.connect()
            await stream.send(b"GET /first HTTP/1.1\r\nHost: t\r\n\r\n")
            await stream.send(b"GET /second HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n")
            answer = await read_all(stream)
            await anyio.sleep(20)  # what the application does after its response, it does to the end
            return answer

    found = responses(clock.run(main, backend=backend))
    if model.whole:
        assert found == [(model.status, model.body, True), (200, b"second", True)]
        assert errors == model.errors
    else:
        assert len(found) <= 1
        for status, body, whole in found:
            assert model.body.startswith(body)
            # A 204 is whole with its head, one with a length when it is reached: only the last message was missing.
            assert not whole or status == 204 or len(body) == model.length
        assert errors[: len(model.errors)] == model.errors  # after the cut it may hear of an error or not
