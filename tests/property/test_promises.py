"""Each promise by its own name: plans that go straight for it, on both loops and both pumps.

The random plans (`test_plans`) find what nobody thought of; these find at once what somebody did.
"""

from __future__ import annotations

from itertools import product

import pytest

from channelkit.testing.clock import BACKENDS, Backend
from channelkit.testing.oracle import JUDGES, judge
from channelkit.testing.peers import Payload
from channelkit.testing.plans import (
    PUMPS,
    TRANSPORTS,
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
    Plan,
    Pump,
    Say,
    Send,
    SendPing,
    SendWrong,
    ServerStep,
    TransportName,
    run_plan,
)
from channelkit.testing.strategies import BYTES, CODES, PEER_CODES, TEXTS

STREAMS: tuple[TransportName, ...] = ("websocket", "deflate", "raw", "sse", "ndjson")
PAYLOADS: tuple[Payload, ...] = (*TEXTS, *BYTES, "x" * 70_000, b"\xff" * 1_000_000)
WIDE = Limits(soft_mark=65536, hard_mark=1 << 20, max_inbox=1024, max_inbox_bytes=1 << 20)
SLOW = (Manner("stop_reading"), Pause(5.0), Manner("resume_reading"))
MANY = tuple(Say(f"{number}") for number in range(40))


def sends(count: int, size: int, *, nowait: bool, behind: bool = False) -> tuple[Send, ...]:
    return tuple(Send(f"{number:08}" + "x" * size, nowait=nowait, behind=behind) for number in range(count))


def cancelled(step: type[Send] | type[Await]) -> tuple[ServerStep, ...]:
    """The same call cancelled at every tick, both ways."""
    cancels = [Cancel(ticks, native) for ticks, native in product(range(6), (False, True))]
    if step is Send:
        return tuple(Send(f"{number}" + "x" * 200, behind=True, cancel=one) for number, one in enumerate(cancels))
    return tuple(Await("flush", cancel=one) for one in cancels)


TWO_WAYS = [
    Plan(transport=transport, server=tuple(map(Send, PAYLOADS)), peer=tuple(map(Say, PAYLOADS)), limits=WIDE)
    for transport in STREAMS
]
SLOW_PEER = [
    Plan(
        transport=transport,
        server=sends(200, 1000, nowait=False, behind=True),
        peer=SLOW,
        network=Network(capacity=4608),
    )
    for transport in STREAMS
]
CANCELLED = [
    Plan(transport=transport, server=(*cancelled(Send), *cancelled(Await)), peer=SLOW, network=Network(capacity=64))
    for transport in STREAMS
]
CODED = [Plan(transport=transport, server=(Close(code, "why"),)) for transport in TRANSPORTS for code in CODES]

PLANS: dict[str, list[Plan]] = {
    "G1": [
        *TWO_WAYS,
        *SLOW_PEER,
        Plan(peer=MANY, style="async", pace=0.01),
        Plan(peer=MANY, eager=20, style="iterate"),
    ],
    "G2": TWO_WAYS,
    "G3": [
        *CANCELLED,
        *(
            Plan(transport=one, server=(Send("a"), SendWrong(), Close(), Send("b"), SendWrong(True)))
            for one in TRANSPORTS
        ),
        Plan(server=(Pause(5.0), Send("a"), Send("b", nowait=True)), peer=(Manner("vanish"),)),
    ],
    "G4": [
        *(
            Plan(
                transport=one,
                server=(*sends(400, 1000, nowait=True), Pause(1.0)),
                peer=SLOW,
                network=Network(capacity=4608),
            )
            for one in STREAMS
        ),
        Plan(peer=MANY, style="receive", ending="vanish"),
        Plan(peer=MANY, style="async", pace=1.0),
        Plan(peer=tuple(Say("x" * 300) for _ in range(20)), style="async", pace=1.0),
        Plan(peer=MANY, style="late", late=5.0, limits=Limits(max_inbox=1)),
    ],
    "G5": [*SLOW_PEER, Plan(peer=(*MANY, Goodbye()), style="async", pace=0.1)],
    "G6": [
        Plan(transport=one, server=(Close(behind=True), Close(1001, nowait=True), Send("a"), Close(3000)))
        for one in TRANSPORTS
    ]
    + [Plan(server=(Pause(1.0), Close(3001, behind=True)), peer=(Pause(1.0), Goodbye(3002)))],
    "G7": [
        *(Plan(transport=one, style=style) for one in TRANSPORTS for style in ("callback", "async", "receive")),
        Plan(style="async", pace=1.0, peer=(*MANY[:4], Goodbye())),
        Plan(style="callback", explode_at=2, peer=MANY),
    ],
    "G8": [
        Plan(
            transport=one,
            style="receive",
            server=(
                Await("receive"),
                Await("flush"),
                Await("wait_closed"),
                *sends(30, 1000, nowait=False, behind=True),
            ),
            peer=(Manner("stop_reading"), Pause(2.0), Manner("vanish")),
            network=Network(capacity=64),
        )
        for one in STREAMS
    ]
    + [Plan(style="receive", server=(Await("receive"), Await("wait_closed"), Pause(1.0), Close()))],
    "G9": [
        Plan(
            transport=one,
            server=(Pause(1.0), Send("x" * 50_000), Close()),
            peer=(Manner(how),),
            network=Network(4608),
            stubborn=True,
        )
        for one in TRANSPORTS
        for how in ("stop_reading", "fall_silent", "stall")
    ],
    "G10": [
        *SLOW_PEER,
        *(Plan(transport=one, server=(*sends(20, 300, nowait=False), Close(behind=True))) for one in STREAMS),
        *(
            Plan(peer=(*MANY, Goodbye()), style=style, pace=0.05)
            for style in ("callback", "async", "iterate", "receive")
        ),
        *CODED,
    ],
    "G11": [
        *CODED,
        *(Plan(peer=(Goodbye(code, "why"), Pause(1.0))) for code in PEER_CODES),
        *(Plan(peer=(Say("a"), one, Pause(1.0))) for one in VIOLATIONS),
        *(Plan(transport=one, peer=(Manner("vanish"), Pause(1.0))) for one in TRANSPORTS),
        Plan(peer=(Say("a"), Pause(1.0)), explode_at=1),
    ],
    "G12": [
        Plan(transport=one, server=sends(200, 1000, nowait=True), peer=(Manner("stop_reading"), Pause(50.0)))
        for one in STREAMS
    ]
    + [Plan(peer=(Say("a"), *VIOLATIONS[:1]), explode_at=1), Plan(peer=MANY, style="async", pace=1.0)],
    "G13": [Plan(peer=(*MANY, Goodbye()), style="async", pace=pace) for pace in (0.0, 0.1)],
    "G14": [
        Plan(peer=(*MANY[:3], PeerPing(), *MANY[3:], Pause(5.0), Goodbye()), style=style, late=2.0, eager=2)
        for style in ("late", "receive")
    ],
    "G15": [
        Plan(
            transport=one, server=(Send("a", False, behind=True), Send("b", close, behind=True), Send("c", behind=True))
        )
        for one in STREAMS
        for close in (True, False, None)
    ]
    + [Plan(transport="single", server=(Send("a"), Send("b")))],
    "G16": [Plan(transport=one, server=(Send("a"), Send("b", True), Send("c"), Close())) for one in TRANSPORTS],
    "G17": [
        *(
            Plan(transport=one, server=(Send("a", False), Pause(200.0)), peer=(Pause(1.0), Manner(how), Pause(200.0)))
            for one in TRANSPORTS
            for how in ("vanish", "half_close")
        ),
        Plan(server=(Pause(200.0),), peer=(Pause(1.0), Manner("fall_silent"), Pause(200.0))),
    ],
    "G18": CANCELLED,
}


@pytest.mark.parametrize("pump", PUMPS)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("promise", PLANS)
def test_promise(promise: str, backend: Backend, pump: Pump) -> None:
    """The plans that go for a promise keep it, and all the others besides."""
    for plan in PLANS[promise]:
        trace = run_plan(plan, backend, pump)
        JUDGES[promise](trace)
        judge(trace)


def test_every_promise_has_plans() -> None:
    """No promise that the oracle judges is without plans of its own."""
    assert set(PLANS) == set(JUDGES)


REGRESSIONS = {
    "silence behind a ping on a stream": Plan(
        transport="sse",
        server=(Send("hello"), SendPing(b"x"), Pause(60.0)),
        peer=(Manner("fall_silent"),),
        stubborn=True,
    ),
    "half-close before a message that fills the inbox": Plan(
        style="receive",
        server=(Send("", behind=True), Pause(45.0), Send("", True, nowait=True)),
        peer=(Say("x" * 400), Manner("half_close")),
        network=Network(capacity=64, latency=0.001, chunk=1),
        limits=Limits(soft_mark=1, max_inbox=1, max_inbox_bytes=16),
        ending="vanish",
    ),
}


@pytest.mark.parametrize("pump", PUMPS)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", REGRESSIONS)
def test_regression(name: str, backend: Backend, pump: Pump) -> None:
    """What once went wrong stays right."""
    judge(run_plan(REGRESSIONS[name], backend, pump))
