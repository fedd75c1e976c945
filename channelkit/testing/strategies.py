"""What Hypothesis draws plans from.  Needs hypothesis, so only tests import it.

Sizes are small and limits smaller, so that marks and bounds are met in short plans; the payloads are the ones
transports trip over.
"""

from __future__ import annotations

from hypothesis import strategies as st

from channelkit.testing.peers import Payload
from channelkit.testing.plans import (
    VIOLATIONS,
    Await,
    Cancel,
    Close,
    Goodbye,
    Limits,
    Manner,
    Network,
    Pause,
    PeerPing,
    PeerStep,
    Plan,
    Say,
    Send,
    SendPing,
    SendWrong,
    ServerStep,
    TransportName,
)

TEXTS = (
    "",
    "a",
    "\r",
    "\n",
    "\r\n",
    "a\rb\nc\r\nd",
    "\0",
    "\x1e",
    "\u2028",
    "\ufeff",
    " b",
    ": c",
    "data: d",
    "\U0001f600",
)
BYTES = (b"", b"\0", b"\r\n", b"\xff\xfe", b"\x1e", bytes(range(256)), b"0\r\n\r\n", b"\xef\xbb\xbf")
REASONS = ("", "because", "\u00e9")
CODES = (1000, 1001, 1008, 1011, 1013, 3000, 4999)
PEER_CODES = (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 4999)

pauses = st.builds(Pause, seconds=st.sampled_from((0.0, 0.01, 1.0, 5.0, 45.0)), ticks=st.integers(0, 5))
cancels = st.none() | st.builds(Cancel, ticks=st.integers(0, 8), native=st.booleans())


@st.composite
def payloads(draw: st.DrawFn) -> Payload:
    """A message: often adversarial, sometimes big."""
    kind = draw(st.integers(0, 9))
    if kind < 4:
        return draw(st.sampled_from(TEXTS))
    if kind < 7:
        return draw(st.sampled_from(BYTES))
    if kind < 9:
        size = draw(st.sampled_from((100, 300, 700, 2000)))
        return "x" * size if draw(st.booleans()) else b"\x80" * size
    return draw(st.text(max_size=20) | st.binary(max_size=20))


def sends() -> st.SearchStrategy[Send]:
    """Mostly without a close, or plans would be short."""
    close = st.sampled_from((None, None, None, None, False, False, True))
    return st.builds(Send, payloads(), close, nowait=st.booleans(), behind=st.booleans(), cancel=cancels)


def server_steps(*, may_receive: bool) -> st.SearchStrategy[tuple[ServerStep, ...]]:
    """The server's script."""
    waits: tuple[str, ...] = ("flush", "wait_closed", "receive", "receive") if may_receive else ("flush", "wait_closed")
    closes = st.builds(
        Close,
        code=st.sampled_from(CODES),
        reason=st.sampled_from(REASONS),
        nowait=st.booleans(),
        behind=st.booleans(),
        cancel=cancels,
    )
    awaits = st.builds(Await, what=st.sampled_from(waits), behind=st.booleans(), cancel=cancels)
    pings = st.builds(SendPing, st.binary(max_size=4))
    wrongs = st.builds(SendWrong, nowait=st.booleans())
    step = st.one_of(sends(), sends(), sends(), sends(), awaits, awaits, pauses, pauses, closes, pings, wrongs)
    return st.lists(step, max_size=12).map(tuple)


manners = st.builds(
    Manner,
    what=st.sampled_from(
        (
            "stop_reading",
            "stop_reading",
            "resume_reading",
            "resume_reading",
            "stall",
            "unstall",
            "vanish",
            "fall_silent",
            "half_close",
        )
    ),
)


def peer_steps() -> st.SearchStrategy[tuple[PeerStep, ...]]:
    """The peer's script."""
    says = st.builds(Say, payloads())
    pings = st.builds(PeerPing, st.binary(max_size=4))
    goodbyes = st.builds(Goodbye, code=st.sampled_from(PEER_CODES), reason=st.sampled_from(REASONS))
    step = st.one_of(says, says, says, says, pings, pauses, pauses, manners, goodbyes, st.sampled_from(VIOLATIONS))
    return st.lists(step, max_size=12).map(tuple)


networks = st.builds(
    Network,
    capacity=st.sampled_from((64, 1024, 65536)),
    latency=st.sampled_from((0.0, 0.0, 0.001, 0.02)),
    chunk=st.sampled_from((None, None, 1, 7, 100)),
    vanish_after=st.none() | st.none() | st.none() | st.integers(0, 3000),
)
limits = st.builds(
    Limits,
    soft_mark=st.sampled_from((1, 256)),
    hard_mark=st.sampled_from((512, 1024)),
    max_inbox=st.sampled_from((1, 4, 64)),
    max_inbox_bytes=st.sampled_from((16, 512)),
)


@st.composite
def plans(draw: st.DrawFn, transport: TransportName) -> Plan:
    """A plan for one transport."""
    websocket = transport in ("websocket", "deflate")
    styles = (
        ("callback", "async", "iterate", "receive", "late", "discard")
        if websocket
        else ("callback", "async", "receive")
    )
    style = draw(st.sampled_from(styles))
    return Plan(
        transport=transport,
        style=style,  # type: ignore[arg-type]  # mypy widens the tuple's strings
        server=draw(server_steps(may_receive=style == "receive")),
        peer=draw(peer_steps()),
        network=draw(networks),
        limits=draw(limits),
        ending=draw(st.sampled_from(("server", "peer", "vanish", "drain"))),
        pace=draw(st.sampled_from((0.0, 0.0, 0.5))),
        late=draw(st.sampled_from((0.0, 0.02, 3.0))),
        explode_at=draw(st.none() | st.none() | st.integers(1, 4)),
        eager=draw(st.integers(0, 3)),
        stubborn=draw(st.sampled_from((False, False, False, True))),
    )
