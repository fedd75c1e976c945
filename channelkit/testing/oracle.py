"""Judging a trace: one function for each promise of docs/guarantees, which raises `Broken` with the promise's number.

Each looks only at what its promise is about, so that the name of what fails says what is wrong.  `judge` asks all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import anyio

from channelkit.status import CloseStatus, status_of_code
from channelkit.testing.peers import Payload
from channelkit.testing.plans import Plan, Say, Send, SendPing, SendWrong, Trace

SLACK = 1.0  # virtual seconds nobody argues about
CONTROL = 131  # bytes of a control frame at most, or of a stream's ping
HEAD = 600  # bytes of a response's head at most

_GONE = ("vanish", "half_close")
_DEAF = ("stop_reading", "stall")


class Broken(AssertionError):
    """A promise did not hold; the text begins with its number."""


def judge(trace: Trace) -> None:
    """Raise Broken for the first promise that did not hold."""
    for check in JUDGES.values():
        check(trace)


def _demand(holds: object, promise: str, what: str, trace: Trace) -> None:
    if not holds:
        raise Broken(f"{promise}: {what}\n{trace.info=}\n{trace.backend} {trace.pump}\n{trace.plan}")


# -- what kind of run it was -------------------------------------------------------------------------------------------


def healthy(trace: Trace) -> bool:
    """Whether peer and network behaved: whatever is lost then is the server's fault."""
    plan = trace.plan
    if plan.stubborn or plan.network.vanish_after is not None or trace.violated:
        return False
    if any(fault in trace.faults for fault in (*_GONE, "fall_silent")):
        # in the epilogue everything may be cut; only a fault before the end of the channel counts
        first = min(trace.faults[fault] for fault in (*_GONE, "fall_silent") if fault in trace.faults)
        if trace.over_at is None or first <= trace.over_at:
            return False
    return _deaf_for(trace) < 9 and _transit(trace) < 5


def _deaf_for(trace: Trace) -> float:
    began = [trace.faults[fault] for fault in _DEAF if fault in trace.faults]
    return trace.last_resumed - min(began) if began else 0.0


def _transit(trace: Trace) -> float:
    """How long what was said may be on its way."""
    network = trace.plan.network
    said = sum(_wire_size(trace.plan, payload) for payload in (*trace.accepted, *trace.said))
    return 2 * network.latency * (2 + said / network.capacity)


def _wire_size(plan: Plan, payload: Payload) -> int:
    """An upper bound of what `payload` takes in the transport's wire form."""
    size = len(payload.encode()) if isinstance(payload, str) else len(payload)
    if plan.transport in ("websocket", "deflate", "raw", "single"):
        return size + 20
    if plan.transport == "sse":
        lines = payload.count("\n") if isinstance(payload, str) else 0
        escaped = isinstance(payload, str) and ("\r" in payload or "\0" in payload)
        return (6 * size if escaped else 2 * size + 6 * lines) + 64
    return 6 * size + 64


def _payloads(plan: Plan) -> Iterable[Payload]:
    yield "the probe"
    for step in plan.server:
        if isinstance(step, Send):
            yield step.payload


def _as_bytes(payloads: Iterable[Payload]) -> bytes:
    return b"".join(one.encode() if isinstance(one, str) else one for one in payloads)


def _is_prefix(some: Sequence[Payload], whole: Sequence[Payload]) -> bool:
    same_types = all(type(one) is type(other) for one, other in zip(some, whole, strict=False))
    return same_types and list(some) == list(whole[: len(some)])


def _receiver_came(trace: Trace) -> bool:
    """Whether there was somebody to deliver to before the end: a late one may come too late."""
    plan = trace.plan
    if plan.style == "late":
        return bool(trace.server_received) or trace.over_at is None or trace.over_at > plan.late + SLACK
    return plan.style != "discard"


def _has_borders(trace: Trace) -> bool:
    return trace.plan.transport in ("websocket", "deflate", "sse", "ndjson")


def _all_arrived(trace: Trace) -> bool:
    """Whether the peer has all that was accepted."""
    if _has_borders(trace):
        return len(trace.peer_received) == len(trace.accepted)
    if trace.plan.transport == "single" and not trace.accepted:
        return True
    return trace.body == _as_bytes(trace.accepted) if trace.accepted else True


# -- the promises ------------------------------------------------------------------------------------------------------


def order(trace: Trace) -> None:
    """G1."""
    if _has_borders(trace):
        _demand(_is_prefix(trace.peer_received, trace.accepted), "G1", _difference(trace), trace)
    elif trace.body is not None and trace.accepted:
        _demand(_as_bytes(trace.accepted).startswith(trace.body), "G1", "the body is not what was accepted", trace)
    _demand(_is_prefix(trace.server_received, trace.said), "G1", _difference_in(trace), trace)


def _difference(trace: Trace) -> str:
    return f"the peer received {trace.peer_received!r:.300} of what was accepted, {trace.accepted!r:.300}"


def _difference_in(trace: Trace) -> str:
    return f"the server received {trace.server_received!r:.300} of what was said, {trace.said!r:.300}"


def fidelity(trace: Trace) -> None:
    """G2."""
    if _has_borders(trace):
        invented = _without(trace.peer_received, trace.accepted)
        _demand(not invented, "G2", f"arrived and was never accepted, or arrived twice: {invented!r:.300}", trace)
    elif trace.body is not None:
        known = _as_bytes(trace.accepted)
        _demand(len(trace.body) <= len(known) or not trace.accepted, "G2", "more arrived than was accepted", trace)
        _demand(trace.accepted or not trace.body, "G2", "a body nobody sent", trace)
    invented = _without(trace.server_received, trace.said)
    _demand(not invented, "G2", f"received and never said, or received twice: {invented!r:.300}", trace)


def _without(some: Sequence[Payload], known: Sequence[Payload]) -> list[Payload]:
    left = [(type(one), one) for one in known]
    surplus: list[Payload] = []
    for one in some:
        if (type(one), one) in left:
            left.remove((type(one), one))
        else:
            surplus.append(one)
    return surplus


def sending(trace: Trace) -> None:
    """G3."""
    for operation in trace.operations:
        step = operation.step
        if isinstance(step, SendWrong):
            right = isinstance(operation.error, TypeError) or operation.cancelled
            _demand(right, "G3", f"sending an object gave {operation.error!r}, {operation.result!r}", trace)
        if not isinstance(step, Send) or operation.ended is None or operation.cancelled:
            continue
        if operation.error is not None:
            fine = step.nowait and isinstance(operation.error, anyio.WouldBlock)
            _demand(fine, "G3", f"send raised {operation.error!r}", trace)
        else:
            fine = operation.result is True or (operation.result is False and not operation.is_open_after)
            _demand(fine, "G3", f"send returned {operation.result!r} on an open channel", trace)
    unaccepted = _without(trace.peer_received, trace.accepted)
    _demand(not unaccepted, "G3", f"not accepted, and yet received: {unaccepted!r:.300}", trace)


def memory(trace: Trace) -> None:
    """G4."""
    limits = trace.plan.limits
    biggest = max(_wire_size(trace.plan, payload) for payload in _payloads(trace.plan))
    biggest_in = max((_size(step.payload) for step in trace.plan.peer if isinstance(step, Say)), default=0)
    controls = sum(isinstance(step, SendPing) for step in trace.plan.server) + 4
    outbox = max(limits.hard_mark, limits.soft_mark + biggest) + biggest + HEAD + CONTROL * controls
    for sample in trace.samples:
        _demand(
            sample.inbox_messages <= limits.max_inbox, "G4", f"{sample.inbox_messages} messages in the inbox", trace
        )
        fits = sample.inbox_bytes < limits.max_inbox_bytes + biggest_in + 1
        _demand(fits, "G4", f"{sample.inbox_bytes} bytes in the inbox", trace)
        _demand(sample.buffered_bytes <= outbox, "G4", f"{sample.buffered_bytes} bytes unsent of {outbox}", trace)


def _size(payload: Payload) -> int:
    return len(payload)


def slowness(trace: Trace) -> None:
    """G5."""
    plan = trace.plan
    if all(not step.nowait for step in plan.server if isinstance(step, Send)):
        biggest = max(_wire_size(plan, payload) for payload in _payloads(plan))
        controls = sum(isinstance(step, SendPing) for step in plan.server) + 4
        most = plan.limits.soft_mark + biggest + HEAD + CONTROL * controls
        unsent = max((sample.buffered_bytes for sample in trace.samples), default=0)
        _demand(unsent <= most, "G5", f"senders were not slowed: {unsent} bytes unsent, of {most}", trace)
    info = trace.info
    if not healthy(trace) or info is None or info.code not in (1000, 1001):
        return
    if info.by == "local" and info.status == CloseStatus.SERVER_CLOSE and trace.peer_closed_first is not True:
        _demand(_all_arrived(trace), "G5", f"a slow receiver lost something: {_difference(trace)}", trace)


def closing(trace: Trace) -> None:
    """G6."""
    _demand(len(trace.closers) <= 1, "G6", f"several calls closed: {trace.closers}", trace)
    _demand(not trace.reopened, "G6", "is_open was True again", trace)
    for operation in trace.operations:
        if not operation.was_open and operation.ended is not None and not operation.cancelled:
            refused = operation.result is False or operation.error is not None or not hasattr(operation.step, "nowait")
            _demand(refused, "G6", f"{operation.step} of a closed channel gave {operation.result!r}", trace)
    info = trace.info
    if info is not None and trace.plan.is_websocket and info.by == "peer" and not trace.violated:
        _demand(trace.peer_closed_first, "G6", "we name the peer as the one who closed, it names us", trace)
    if info is not None and info.by == "local" and trace.peer_closed_first and not trace.closers:
        _demand(trace.exploded, "G6", "we name ourselves as the one who closed, and nobody did", trace)


def told_once(trace: Trace) -> None:
    """G7."""
    if not trace.opened or trace.info is None or (trace.plan.explode_at is not None and not trace.close_told):
        return
    for name, told in trace.close_told.items():
        _demand(told == [trace.info.status], "G7", f"the {name} on_close was told {told}", trace)
    _demand("first" in trace.close_told, "G7", "on_close was never called", trace)
    if trace.plan.style in ("callback", "async", "late"):
        whats = [moment.what for moment in trace.moments]
        after = whats[whats.index("close") :]
        _demand("message" not in after, "G7", "a message came after on_close", trace)


def waking(trace: Trace) -> None:
    """G8."""
    waiting = [operation.step for operation in trace.operations if operation.ended is None]
    _demand(not waiting, "G8", f"still waiting after the close: {waiting}", trace)
    _demand(trace.stuck is None, "G8", f"the run got stuck: {trace.stuck}", trace)
    others = [info for info in trace.infos if info != trace.info]
    _demand(not others, "G8", f"told of another end: {others}", trace)
    _demand(trace.tasks_left == 0, "G8", f"{trace.tasks_left} tasks left", trace)


def ending(trace: Trace) -> None:
    """G9."""
    if trace.error is not None:
        raise Broken(f"G9: the server ended with {trace.error!r}\n{trace.plan}") from trace.error
    _demand(trace.sockets_left == 0, "G9", f"{trace.sockets_left} sockets left open", trace)
    if not trace.opened:
        return
    _demand(trace.over_at is not None, "G9", "the channel never ended", trace)
    assert trace.over_at is not None
    for at, _, _ in trace.closers:
        took = trace.over_at - max(at, trace.last_resumed if not trace.plan.is_websocket else at)
        bound = _close_bound(trace)
        _demand(took <= bound, "G9", f"the close took {took} s, of {bound}", trace)
    if trace.plan.is_websocket and healthy(trace) and "fall_silent" not in trace.faults:
        gone = trace.peer_gone_at
        _demand(gone is not None, "G9", "TCP was not closed behind the channel's end", trace)


def _close_bound(trace: Trace) -> float:
    config = trace.plan.config()
    if trace.plan.is_websocket:
        return 2 * config.close_timeout + SLACK
    held = 20 if trace.plan.ending == "drain" else 0  # a held answer may come until drain's deadline
    return config.write_timeout + held + _transit(trace) + SLACK


def delivery(trace: Trace) -> None:
    """G10."""
    info = trace.info
    if info is None:
        return
    if info.by == "local":
        _delivered_by_us(trace)
    elif info.by == "peer" and trace.plan.is_websocket and _receiver_came(trace) and not trace.exploded:
        whole = list(trace.server_received) == trace.said
        _demand(whole, "G10", f"said before the peer's close and not delivered: {_difference_in(trace)}", trace)


def _delivered_by_us(trace: Trace) -> None:
    info = trace.info
    assert info is not None
    crossed = trace.peer_closed_first is True
    if info.delivered is True:
        _demand(trace.plan.is_websocket, "G10", "only a WebSocket can confirm", trace)
        _demand(_all_arrived(trace), "G10", f"delivered, and yet {_difference(trace)}", trace)
    if info.delivered is not False:
        _demand(info.unsent == 0, "G10", f"delivered is {info.delivered} with {info.unsent} bytes unsent", trace)
    if not healthy(trace) or crossed:
        return
    if trace.plan.is_websocket and trace.pump != "asgi":
        _demand(info.delivered is True, "G10", "the peer confirmed, and delivered is not True", trace)
    elif trace.plan.is_websocket:
        _demand(info.delivered is None, "G10", f"ASGI tells of no delivery, and delivered is {info.delivered}", trace)
        _demand(_all_arrived(trace), "G10", f"handed over, and yet {_difference(trace)}", trace)
    elif info.code in (1000, 1001):
        _demand(info.delivered is None, "G10", f"all was handed over, and delivered is {info.delivered}", trace)
        _demand(_all_arrived(trace), "G10", f"handed over, and yet {_difference(trace)}", trace)
        _demand(trace.response_complete, "G10", "the response did not end properly", trace)
    elif trace.accepted or trace.plan.transport in ("sse", "ndjson"):
        # What an ASGI host has not begun to send can still become a 500, and that is whole.
        refused = trace.pump == "asgi" and trace.response_status == 500
        _demand(refused or not trace.response_complete, "G10", "an aborted response looks whole", trace)


def truth(trace: Trace) -> None:
    """G11."""
    info = trace.info
    if info is None:
        return
    if info.by == "local":
        _truth_of_ours(trace)
    elif not trace.plan.is_websocket:
        told = (info.status, info.code, info.by)
        _demand(told == (CloseStatus.CLIENT_CLOSE, 1006, "peer"), "G11", f"told {told}", trace)
        _demand(not healthy(trace), "G11", "the client is said to have gone, and it had not", trace)
    elif info.by == "peer":
        _truth_of_peers(trace)
    else:
        ended = (info.status, info.code)
        _demand(ended == (CloseStatus.ABNORMAL, 1006), "G11", f"told {ended} of a peer that vanished", trace)
        _demand(not healthy(trace), "G11", "the peer is said to have vanished, and it had not", trace)
    if trace.closers:
        _demand(info.by == "local", "G11", f"we closed, and told is that it was the {info.by}", trace)


def _truth_of_ours(trace: Trace) -> None:
    info = trace.info
    assert info is not None
    told = (info.code, info.reason)
    if trace.exploded and not trace.closers:
        ours = (info.status, info.code) == (CloseStatus.INTERNAL_SERVER_ERROR, 1011)
        _demand(ours, "G11", f"a callback raised, and told is {info.status}", trace)
    else:
        _demand(info.status == CloseStatus.SERVER_CLOSE, "G11", f"we closed, and told is {info.status}", trace)
        true = told in [closer[1:] for closer in trace.closers]
        _demand(true, "G11", f"told {told}, closed by {trace.closers}", trace)
    # An ASGI host answers a violation before the application hears even of the messages in front of it.
    hosts_word = trace.pump == "asgi" and trace.violated is not None
    if trace.peer_close_received is not None and trace.peer_closed_first is False and not hosts_word:
        heard = trace.peer_close_received
        _demand(heard == told, "G11", f"the peer was told {heard}", trace)


def _truth_of_peers(trace: Trace) -> None:
    info = trace.info
    assert info is not None
    if trace.violated:
        told = (info.status, info.code)
        deserved = (status_of_code(trace.violated), trace.violated)
        _demand(told == deserved, "G11", f"the peer broke the protocol ({deserved}), told is {told}", trace)
        return
    said = trace.peer_close_sent
    _demand(said == (info.code, info.reason), "G11", f"the peer said {said}, told is {info}", trace)
    _demand(info.status == status_of_code(info.code), "G11", f"{info.status} is not the status of {info.code}", trace)
    if trace.peer_close_received is not None:
        echoed = trace.peer_close_received[0]
        _demand(echoed == info.code, "G11", f"the peer's {info.code} was answered with {echoed}", trace)


def isolation(trace: Trace) -> None:
    """G12."""
    for seconds, same in trace.quiet:
        _demand(same and seconds < SLACK, "G12", f"the channel beside took {seconds} s, right answer: {same}", trace)
    _demand(trace.quiet, "G12", "nothing was asked of the channel beside", trace)


def one_at_a_time(trace: Trace) -> None:
    """G13."""
    if trace.plan.style not in ("callback", "async", "late"):
        return
    running: str | None = None
    for moment in trace.moments:
        if moment.what.endswith(" done"):
            _demand(moment.what == f"{running} done", "G13", f"{moment.what}, while {running} was running", trace)
            running = None
        else:
            _demand(running is None, "G13", f"{moment.what} began while {running} was running", trace)
            running = moment.what
    whats = [moment.what for moment in trace.moments]
    _demand(not whats or whats[0] == "open", "G13", f"{whats[:1]} before on_open", trace)


def holding(trace: Trace) -> None:
    """G14."""
    if trace.plan.style not in ("late", "receive") and not trace.plan.eager:
        return
    _demand(_is_prefix(trace.server_received, trace.said), "G14", _difference_in(trace), trace)
    info = trace.info
    if info is not None and info.by == "peer" and trace.plan.is_websocket and not trace.exploded:
        whole = not _receiver_came(trace) or list(trace.server_received) == trace.said
        _demand(whole, "G14", f"held, and not delivered: {_difference_in(trace)}", trace)


def last_words(trace: Trace) -> None:
    """G15."""
    _demand(True not in trace.accepted_last[:-1], "G15", "something was accepted behind the last message", trace)
    if trace.single_response is not None:
        single = trace.plan.transport == "single"
        _demand(trace.single_response == single, "G15", f"single_response is {trace.single_response}", trace)
    info = trace.info
    for operation in trace.operations:
        step = operation.step
        if not isinstance(step, Send) or operation.result is not True or operation.is_open_after is None:
            continue
        closes = trace.plan.transport == "single" if step.close_after_send is None else step.close_after_send
        if closes:
            _demand(not operation.is_open_after, "G15", f"open behind {step!r:.200}", trace)
        elif not operation.is_open_after and info is not None and info.by == "local":
            _demand(trace.closers or trace.exploded, "G15", f"{step!r:.200} closed", trace)


def one_response(trace: Trace) -> None:
    """G16."""
    _demand(trace.wire_error is None, "G16", f"on the wire: {trace.wire_error}", trace)
    _demand(not trace.asgi_rules_broken, "G16", f"ASGI's rules: {trace.asgi_rules_broken}", trace)


def noticing(trace: Trace) -> None:
    """G17."""
    gone = [trace.faults[fault] for fault in (*_GONE, "fall_silent") if fault in trace.faults]
    if not gone or trace.over_at is None or any(not sample.reading for sample in trace.samples):
        return
    took = trace.over_at - min(gone)
    bound = _notice_bound(trace, min(gone))
    _demand(took <= bound, "G17", f"noticed after {took} s, of {bound}", trace)


def _notice_bound(trace: Trace, at: float) -> float:
    config = trace.plan.config()
    silent = trace.faults.get("fall_silent") == at
    if silent and not trace.plan.is_websocket:
        return float("inf")  # docs/guarantees: TCP's own limits
    at_once = _transit(trace) + SLACK
    if not silent and not any(fault in trace.faults for fault in (*_DEAF, "fall_silent")):
        return at_once
    return at_once + 2 * config.ping_interval + config.pong_timeout + config.write_timeout


def usable(trace: Trace) -> None:
    """G18."""
    _demand(trace.probe is not False, "G18", "the channel says it is open and takes nothing", trace)
    cancelled = [operation for operation in trace.operations if operation.cancelled]
    for operation in cancelled:
        _demand(operation.ended is not None, "G18", f"{operation.step} was cancelled and went on", trace)
    if cancelled:
        waking(trace)


JUDGES: dict[str, Callable[[Trace], None]] = {
    "G12": isolation,
    "G16": one_response,
    "G1": order,
    "G2": fidelity,
    "G3": sending,
    "G4": memory,
    "G5": slowness,
    "G6": closing,
    "G7": told_once,
    "G8": waking,
    "G9": ending,
    "G10": delivery,
    "G11": truth,
    "G13": one_at_a_time,
    "G14": holding,
    "G15": last_words,
    "G17": noticing,
    "G18": usable,
}
