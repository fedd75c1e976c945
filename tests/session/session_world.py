"""Two machines and a hostile network as a value: what the model tests search.

The machines are the real ones; only the wire between them is imagined.  A `World` can be cloned, asked which events
are possible, and told to do one.  Every event ends with `check`, which asserts the invariants; `converge` stops the
faults and demands that everything of the newest living tab arrives or its loss is told on both sides, and that every
older living tab has been told: only the newest may send, and what an older one lost, its end (never clean then) told.

Time stands still (all times are 0, jitter is 0, so whatever is due is due now); what takes time in life (grace,
rotation, the end of a poll's wait) is an event.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from channelkit.config import SessionConfig
from channelkit.session import actions as act
from channelkit.session.acks import Acks
from channelkit.session.actions import Kind
from channelkit.session.client import ClientConfig, ClientSession, Link
from channelkit.session.client.attaching import Attaching
from channelkit.session.client.instance import Instance
from channelkit.session.client.saying import Saying
from channelkit.session.client.uplink import Uplink
from channelkit.session.frames import Text
from channelkit.session.life import Life
from channelkit.session.pacing import AttachRate, Turnover
from channelkit.session.receiver import Receiver
from channelkit.session.refusals import Refusal
from channelkit.session.sender import Sender
from channelkit.session.server import Admitted, Attachment, Deleted, Refused, ServerSession
from channelkit.session.server.downlink import Downlink

NOBODY = -1
WINDOW = 4  # a quarter is one message, so acknowledgements do not wait
SERVER = SessionConfig(window=WINDOW, fruitless_attaches=10**6)
CLIENT = ClientConfig()
FURTHER_ATTACHMENTS = 12

Event = tuple[Any, ...]


def clone(thing: Any, copies: dict[int, Any] | None = None) -> Any:
    """A copy of a machine: its parts and queues are copied, each once, its frozen nouns shared."""
    copies = {} if copies is None else copies
    kind: Any = type(thing)
    copy = copies[id(thing)] = kind.__new__(kind)
    for name in SLOTS[kind]:
        value = getattr(thing, name)
        if type(value) is deque:
            value = value.copy()
        elif type(value) in PARTS:
            value = copies[id(value)] if id(value) in copies else clone(value, copies)
        setattr(copy, name, value)
    return copy


PARTS = {
    *(Sender, Receiver, Life, Acks),
    *(Downlink, Attachment, Turnover, AttachRate),
    *(Instance, Attaching, Saying, Uplink),
}
SLOTS: dict[type, list[str]] = {
    kind: [name for base in kind.__mro__ for name in getattr(base, "__slots__", ())]
    for kind in (*PARTS, ServerSession, ClientSession)
}


@dataclass(frozen=True, slots=True)
class Scope:
    """How far a search goes: what may happen, and how often."""

    kinds: tuple[Kind, ...] = (Kind.POLL,)
    up: int = 1  # messages of the clients, all together
    down: int = 1
    cuts: int = 1
    copies: int = 0  # duplicated requests
    switches: int = 0
    rotations: int = 0
    reloads: int = 0  # keeping the state
    forgets: int = 0  # reloads that lose it
    twins: int = 0  # duplicated tabs
    client_closes: int = 0
    server_closes: int = 0
    kills: int = 0  # DELETE and kill
    expiries: int = 0
    slow: bool = False  # inboxes take one message at a time, as events


@dataclass(slots=True)
class Wire:
    """One request with its answer, or one WebSocket.  `up` and `down` are under way, in order."""

    client: int  # NOBODY: a copy's answer goes to nobody
    number: int  # the client's attachment or batch
    what: str  # attach, websocket, post
    up: tuple[Any, ...]
    down: tuple[Any, ...] = ()
    at_client: bool = True  # the client still listens
    at_server: int = 0  # the server's attachment

    def copy(self) -> Wire:
        return Wire(self.client, self.number, self.what, self.up, self.down, self.at_client, self.at_server)


@dataclass(slots=True)
class Tab:
    """A client's application: its machine, what it sent and got, whether its memory still lives."""

    machine: ClientSession
    sent: tuple[str, ...] = ()
    got: tuple[str, ...] = ()
    alive: bool = True
    endings: int = 0

    def copy(self) -> Tab:
        return Tab(clone(self.machine), self.sent, self.got, self.alive, self.endings)


def zero() -> float:
    return 0.0


FIN, CLEAN_CLOSE, CUT, NO_CONTENT = "fin", "close 1000", "cut", "204"


class World:
    """The state that is searched."""

    def __init__(self, scope: Scope, kind: Kind | None = None) -> None:
        self.scope = scope
        self.server = ServerSession("S", SERVER, 0.0)
        self.sent: tuple[str, ...] = ()  # by the server's application
        self.got: tuple[str, ...] = ()
        self.endings = 0
        self.wires: list[Wire] = []
        self.spent: dict[str, int] = {}
        machine = self.make_client()
        self.tabs = [Tab(machine)]
        self._do_client(0, machine.start(kind or scope.kinds[0], 0.0))

    def make_client(self, **known: Any) -> ClientSession:
        """A client's machine, of what it knows."""
        return ClientSession(CLIENT, zero, **known)

    def copy(self) -> World:
        other = World.__new__(World)
        other.scope = self.scope
        other.server = clone(self.server)
        other.sent, other.got, other.endings = self.sent, self.got, self.endings
        other.wires = [wire.copy() for wire in self.wires]
        other.spent = dict(self.spent)
        other.tabs = [tab.copy() for tab in self.tabs]
        return other

    # -- events --------------------------------------------------------------------------------------------------------

    def _left(self, what: str) -> bool:
        return self.spent.get(what, 0) < int(getattr(self.scope, what))

    def _spend(self, what: str) -> None:
        self.spent[what] = self.spent.get(what, 0) + 1

    def events(self) -> Iterator[Event]:
        """What may happen now."""
        yield from self._network_events()
        yield from self._server_events()
        for index, tab in enumerate(self.tabs):
            if tab.alive:
                yield from self._tab_events(index, tab)

    def _network_events(self) -> Iterator[Event]:
        cuts, copies = self._left("cuts"), self._left("copies")
        for index, wire in enumerate(self.wires):
            if wire.up:
                yield ("up", index)
                if copies and wire.what != "websocket":
                    yield ("copy", index)
            if wire.down and wire.at_client:
                yield ("down", index)
            if not wire.at_client:
                yield ("notice", index)
            elif cuts:
                yield ("cut", index)
                if wire.at_server:
                    yield ("server cut", index)

    def _server_events(self) -> Iterator[Event]:
        server = self.server
        if server.is_open and self._left("down") and server.has_room(1):
            yield ("server send",)
        if server.is_open and self._left("server_closes"):
            yield ("server close",)
        if not server.over and self._left("kills"):
            yield ("kill",)
        if self.scope.slow and server.receiver.hold:
            yield ("server pull",)
        if server.over:
            return
        if server.attachment is None or server.closing is not None:
            if self._left("expiries"):
                yield ("server expires",)
        elif server.attachment.until < float("inf") and self._left("rotations"):
            yield ("rotate",)

    def _tab_events(self, index: int, tab: Tab) -> Iterator[Event]:
        machine = tab.machine
        if machine.is_open and self._left("up") and machine.has_room(1):
            yield ("send", index)
        if machine.is_open and self._left("client_closes"):
            yield ("close", index)
        if machine.is_open and self._left("kills") and machine.sid is not None:
            yield ("delete", index)
        if self.scope.slow and machine.receiver.hold and machine.ending is None:
            yield ("pull", index)
        if machine.ending is None and machine.link is not Link.UP and self._left("expiries"):
            yield ("expires", index)
        if machine.ending is None and self._left("switches"):
            for kind in self.scope.kinds:
                yield ("switch", index, kind)
        if machine.sid is not None and machine.ending is None:
            for what in ("reloads", "forgets", "twins"):
                if self._left(what):
                    yield (what, index)

    def do(self, event: Event) -> None:
        """Let it happen, and check the invariants."""
        name, *where = event
        getattr(self, "_on_" + name.replace(" ", "_"))(*where)
        self.check()

    # -- the network ---------------------------------------------------------------------------------------------------

    def _on_up(self, index: int) -> None:
        wire = self.wires[index]
        first, wire.up = wire.up[0], wire.up[1:]
        if isinstance(first, act.Attach):
            self._serve_attach(wire, first)
        elif isinstance(first, act.Post):
            self._serve_post(wire, first)
        elif isinstance(first, act.Delete):
            result = self.server.delete(first.a, 0.0)
            if isinstance(result, Deleted):
                self._do_server(result.actions)
        elif wire.at_server:
            self._do_server(self.server.received(wire.at_server, first, 0.0))
            self._settle_server()
        self._sweep()

    def _serve_attach(self, wire: Wire, attach: act.Attach) -> None:
        result = self.server.attach(attach.kind, attach.a, attach.ack, 0.0, wait=attach.wait)
        if isinstance(result, Refused):
            if result.refusal.code == "superseded":
                assert attach.a < max(tab.machine.a for tab in self.tabs), "the newest instance was refused"
            wire.down = (result.refusal,)
            self._do_server(result.actions)
        elif isinstance(result, Admitted):
            wire.at_server = result.number
            self._do_server(result.actions)

    def _serve_post(self, wire: Wire, post: act.Post) -> None:
        result = self.server.post(post.a, post.ack, list(post.frames), 0.0)
        self._do_server(result.actions)
        if isinstance(result, Refused):
            wire.down = (result.refusal,)
            return
        self._settle_server()
        wire.down = (self.server.answer(result),)

    def _on_down(self, index: int) -> None:
        wire = self.wires[index]
        first, wire.down = wire.down[0], wire.down[1:]
        if wire.what == "post" or isinstance(first, Refusal) or first in (FIN, CLEAN_CLOSE, CUT, NO_CONTENT):
            wire.at_client = False
        machine = self.tabs[wire.client].machine
        self._do_client(wire.client, self._tell(machine, wire, first))
        self._settle_tab(wire.client)
        self._sweep()

    def _tell(self, machine: ClientSession, wire: Wire, thing: Any) -> list[act.ClientAction]:
        if wire.what == "post":
            if isinstance(thing, Refusal):
                return machine.posted(wire.number, thing.status, thing.code, thing.ack, 0.0)
            return machine.posted(wire.number, 200, None, thing, 0.0)
        if isinstance(thing, Refusal):
            return machine.refused(wire.number, thing.status, thing.code, thing.ack, 0.0)
        if isinstance(thing, str):
            return machine.ended(wire.number, 0.0, clean=thing in (FIN, CLEAN_CLOSE, NO_CONTENT))
        return machine.received(wire.number, thing, 0.0)

    def _on_copy(self, index: int) -> None:
        self._spend("copies")
        copy = self.wires[index].copy()
        copy.client, copy.at_client, copy.down = NOBODY, False, ()
        self.wires.append(copy)

    def _on_cut(self, index: int) -> None:
        """The client sees the connection die; the server may notice late, and what was under way may still arrive."""
        self._spend("cuts")
        wire = self.wires[index]
        wire.at_client, wire.down = False, ()
        machine = self.tabs[wire.client].machine
        gone = machine.post_failed if wire.what == "post" else machine.ended
        self._do_client(wire.client, gone(wire.number, 0.0))
        self._settle_tab(wire.client)
        self._sweep()

    def _on_server_cut(self, index: int) -> None:
        """The server sees it die first; the client later."""
        self._spend("cuts")
        wire = self.wires[index]
        wire.up, wire.down = (), (CUT,)
        number, wire.at_server = wire.at_server, 0
        self._do_server(self.server.detached(number, 0.0))

    def _on_notice(self, index: int) -> None:
        """A connection that the client gave up is gone for the server too, and all that was under way on it."""
        wire = self.wires[index]
        wire.up = ()
        number, wire.at_server = wire.at_server, 0
        if number:
            self._do_server(self.server.detached(number, 0.0))
        self._sweep()

    def _sweep(self) -> None:
        """Forget connections on which nothing can happen any more."""
        self.wires = [wire for wire in self.wires if wire.at_client or wire.at_server or wire.up]

    # -- the server's side ---------------------------------------------------------------------------------------------

    def _do_server(self, actions: list[act.ServerAction]) -> None:
        for action in actions:
            if isinstance(action, act.Write):
                if (wire := self._wire_of(action.attachment)) is not None and wire.at_client:
                    wire.down += action.frames
            elif isinstance(action, act.Finish):
                self._finish(action)
            elif isinstance(action, act.Ended):
                self.endings += 1

    def _wire_of(self, number: int) -> Wire | None:
        # An attach under way is admitted before its wire is told the number.
        return next((wire for wire in self.wires if wire.at_server == number), None)

    def _finish(self, action: act.Finish) -> None:
        wire = self._wire_of(action.attachment)
        if wire is None:
            return
        wire.at_server, wire.up = 0, ()
        if not wire.at_client:
            return
        if wire.what == "websocket":
            superseded = action.refusal is not None and action.refusal.status == 409  # told by its close code
            wire.down += (action.refusal if superseded else CLEAN_CLOSE if action.code == 1000 else CUT,)
        elif wire.what == "poll" and not wire.down:
            wire.down += (action.refusal or NO_CONTENT,)
        else:
            wire.down += (FIN,)

    def _settle_server(self, *, once: bool = False) -> None:
        while once or not self.scope.slow:
            message = self.server.pull()
            if message is None:
                break
            assert isinstance(message, Text)
            self.got += (message.text,)
            if once:
                break
        self._do_server(self.server.settle(0.0))

    def _on_server_pull(self) -> None:
        self._settle_server(once=True)
        self._sweep()

    def _on_server_send(self) -> None:
        self._spend("down")
        self.sent += (f"s{len(self.sent) + 1}",)
        self._do_server(self.server.send(self.sent[-1], 0.0))

    def _on_server_close(self) -> None:
        self._spend("server_closes")
        self._do_server(self.server.close(1000, "", 0.0))
        self._sweep()

    def _on_kill(self) -> None:
        self._spend("kills")
        self._do_server(self.server.kill(1000, "", 0.0))
        self._sweep()

    def _on_server_expires(self) -> None:
        self._spend("expiries")
        self._expire_server()

    def _expire_server(self) -> None:
        self._do_server(self.server.tick(1e9))
        self._sweep()

    def _on_rotate(self) -> None:
        self._spend("rotations")
        current = self.server.attachment
        assert current is not None
        self._do_server(self.server.tick(current.until))
        self._sweep()

    # -- the clients' side ---------------------------------------------------------------------------------------------

    def _do_client(self, index: int, actions: list[act.ClientAction]) -> None:
        tab = self.tabs[index]
        for action in actions:
            if isinstance(action, act.Create):
                self._do_client(index, tab.machine.created(self.server.hello("K"), 0.0))
            elif isinstance(action, act.Open):
                self._do_client(index, tab.machine.opened(action.attachment, 0.0))
            elif isinstance(action, act.Attach):
                what = action.kind.value
                self.wires.append(Wire(index, action.attachment, what, (action,)))
            elif isinstance(action, act.Post):
                self.wires.append(Wire(index, action.number, "post", (action,)))
            elif isinstance(action, act.Delete):
                self.wires.append(Wire(NOBODY, 0, "post", (action,), at_client=False))
            elif isinstance(action, act.Drop):
                self._drop(index, action.attachment)
            elif isinstance(action, act.Write):
                wire = self._wire_to(index, action.attachment)
                if wire is not None:
                    wire.up += action.frames
            elif isinstance(action, act.Ended):
                tab.endings += 1

    def _wire_to(self, index: int, number: int) -> Wire | None:
        for wire in self.wires:
            if wire.client == index and wire.number == number and wire.what != "post" and wire.at_client:
                return wire
        return None

    def _drop(self, index: int, number: int) -> None:
        if (wire := self._wire_to(index, number)) is not None:
            wire.at_client, wire.down = False, ()

    def _settle_tab(self, index: int, *, once: bool = False) -> None:
        tab = self.tabs[index]
        if not tab.alive:
            return
        while once or not self.scope.slow:
            message = tab.machine.pull()
            if message is None:
                break
            assert isinstance(message, Text)
            tab.got += (message.text,)
            if once:
                break
        self._do_client(index, tab.machine.settle(0.0))
        self._do_client(index, tab.machine.tick(0.0))

    def _on_pull(self, index: int) -> None:
        self._settle_tab(index, once=True)

    def _on_send(self, index: int) -> None:
        self._spend("up")
        tab = self.tabs[index]
        payload = f"c{index}.{len(tab.sent) + 1}"
        tab.sent += (payload,)
        self._do_client(index, tab.machine.send(payload, 0.0))

    def _on_close(self, index: int) -> None:
        self._spend("client_closes")
        self._do_client(index, self.tabs[index].machine.close(1000, "", 0.0))
        self._settle_tab(index)
        self._sweep()

    def _on_delete(self, index: int) -> None:
        """The application gives the session up: DELETE, and its machine is told nothing but by the server."""
        self._spend("kills")
        self.wires.append(Wire(NOBODY, 0, "post", (act.Delete(self.tabs[index].machine.a),), at_client=False))

    def _on_expires(self, index: int) -> None:
        self._spend("expiries")
        self._do_client(index, self.tabs[index].machine.tick(1e9))
        self._sweep()

    def _on_switch(self, index: int, kind: Kind) -> None:
        self._spend("switches")
        self._do_client(index, self.tabs[index].machine.switch(kind, 0.0))
        self._settle_tab(index)
        self._sweep()

    def _on_reloads(self, index: int) -> None:
        self._spend("reloads")
        self._die(index)
        self._successor(index, keep=True)

    def _on_forgets(self, index: int) -> None:
        self._spend("forgets")
        self._die(index)
        self._successor(index, keep=False)

    def _on_twins(self, index: int) -> None:
        self._spend("twins")
        self._successor(index, keep=True)

    def _die(self, index: int) -> None:
        self.tabs[index].alive = False
        for wire in self.wires:
            if wire.client == index:
                wire.at_client, wire.down = False, ()
        self._sweep()

    def _successor(self, index: int, *, keep: bool) -> None:
        old = self.tabs[index]
        a = max(tab.machine.a for tab in self.tabs) + 1
        saved = old.machine.save()
        if keep:
            tab = Tab(self.make_client(a=a, saved=saved), old.sent, old.got)
        else:
            tab = Tab(self.make_client(a=a, sid=saved.sid, secret=saved.secret))
        self.tabs.append(tab)
        self._do_client(len(self.tabs) - 1, tab.machine.start(old.machine.kind, 0.0))

    # -- what must always hold -----------------------------------------------------------------------------------------

    def check(self) -> None:
        """The invariants of docs/protocol.md."""
        server = self.server
        sender = self._instance(server.by)  # whose numbers they are: nobody else's log will do
        assert not self.got or (sender and sender.sent[: len(self.got)] == self.got), "delivered is no prefix of sent"
        assert self.endings <= 1
        assert server.receiver.have - server.receiver.recv <= WINDOW + 1
        assert server.sender.sent - server.sender.acked <= WINDOW + 1
        acked = self.sent[: server.sender.acked]
        holder = self._instance(server.a)  # the only one whose acknowledgements count
        assert holder is not None
        assert holder.got[: len(acked)] == acked, "acknowledged, and the instance that may does not have it"
        if server.ending is not None and server.ending.clean:
            assert holder.got == self.sent, "a clean end, and something is missing"
        for tab in self.tabs:
            self._check_tab(tab)

    def _check_tab(self, tab: Tab) -> None:
        machine, server = tab.machine, self.server
        assert tab.got == self.sent[: len(tab.got)], "delivered is no prefix of sent"
        assert tab.endings <= 1
        assert machine.receiver.have - machine.receiver.recv <= WINDOW + 1
        acked = tab.sent[: machine.sender.acked]
        assert self.got[: len(acked)] == acked, "believed acknowledged, and the other has something else"
        if machine.a == server.a and tab.alive:
            assert server.sender.acked <= machine.receiver.recv, "acknowledged what the attached client lacks"
        ending = machine.ending
        if ending is None:
            return
        if ending.clean:
            assert self.got[: len(tab.sent)] == tab.sent, "a clean end, and something is missing"
        if ending.outcome == "superseded":
            assert machine.a < max(other.machine.a for other in self.tabs), "the newest instance was superseded"
        if ending.outcome == "lost" and len(self.tabs) == 1:
            told = self.spent.get("expiries", 0) + self.spent.get("kills", 0)
            refused = self.spent.get("server_closes", 0) and ending.unacknowledged
            assert told or refused, "one client, grace not over, and it was told lost"
            assert told or self.got[: len(tab.sent)] != tab.sent, "told lost, and nothing is"

    def _instance(self, a: int | None) -> Tab | None:
        return next((tab for tab in self.tabs if tab.machine.a == a), None)

    # -- convergence ---------------------------------------------------------------------------------------------------

    def converge(self) -> None:
        """Faults stop, the schedule is fair: all arrives, or its loss is told on both sides, within 12 attachments."""
        before = [tab.machine.attaching._last for tab in self.tabs]
        steps = 0
        while self._fair_step():
            self.check()
            steps += 1
            assert steps < 2000, "no rest"
            for tab, number in zip(self.tabs, before, strict=True):
                assert tab.machine.attaching._last - number <= FURTHER_ATTACHMENTS, "livelock: too many attachments"
        living = [tab for tab in self.tabs if tab.alive and tab.machine.ending is None]
        newest = max(living or [tab for tab in self.tabs if tab.alive], key=lambda tab: tab.machine.a)
        if self.server.ending is None and newest.machine.ending is not None:
            self._expire_server()  # nobody comes any more
        elif self.server.ending is not None and newest.machine.ending is None:
            raise AssertionError("the server has ended, and its client rests without being told")
        for tab in self.tabs:
            told = not tab.alive or tab is newest or tab.machine.ending is not None
            assert told, "an older tab rests without being told"
        self._all_or_told(newest)

    def _all_or_told(self, newest: Tab) -> None:
        server, client = self.server.ending, newest.machine.ending
        arrived = newest.got == self.sent and self.got == newest.sent
        assert arrived or (server is not None and client is not None), "something is missing, and nobody was told"
        holder = self._instance(self.server.a)
        if holder is not None and holder.got != self.sent:
            assert server is not None
            assert not server.clean, "the server's loss was not told"
        if self.got[: len(newest.sent)] != newest.sent:
            assert client is not None
            assert not client.clean, "the client's loss was not told"

    def _fair_step(self) -> bool:
        if self.scope.slow and self.server.receiver.hold:
            before = (self.server.receiver.recv, len(self.server.receiver.hold))
            self._on_server_pull()
            if before != (self.server.receiver.recv, len(self.server.receiver.hold)):
                return True
        for index, tab in enumerate(self.tabs):
            if self.scope.slow and tab.alive and tab.machine.ending is None and tab.machine.receiver.hold:
                self._on_pull(index)
                return True
        for index, wire in enumerate(self.wires):
            if wire.up:
                self._on_up(index)
                return True
            if wire.down and wire.at_client:
                self._on_down(index)
                return True
            if not wire.at_client:
                self._on_notice(index)
                return True
        return self._fair_time()

    def _fair_time(self) -> bool:
        """Nothing is under way: what is due now happens."""
        for index, tab in enumerate(self.tabs):
            if tab.alive and not tab.machine.drained:
                before = len(self.wires)
                self._settle_tab(index)
                if len(self.wires) != before:
                    return True
        return False

    # -- identity of states --------------------------------------------------------------------------------------------

    def key(self) -> tuple[Any, ...]:
        """Equal for worlds that behave alike: counters that only name things are left out."""
        server = self.server
        current = server.attachment
        return (
            (self.sent, self.got, self.endings, tuple(sorted(self.spent.items()))),
            (
                server.a,
                server.by,
                server.downlink.acks.told,
                server.downlink.turnover.blocked,
                server.ending,
                server.closing,
            ),
            (server.sender.acked, server.receiver.have, len(server.receiver.hold), server.downlink._announced),
            current and (current.kind, current.a, current.ack),
            tuple(self._tab_key(tab) for tab in self.tabs),
            tuple(sorted((self._wire_key(wire) for wire in self.wires), key=repr)),
        )

    def _tab_key(self, tab: Tab) -> tuple[Any, ...]:
        m = tab.machine
        return (
            (
                tab.sent,
                tab.got,
                tab.alive,
                tab.endings,
                m.a,
                m.instance.line,
                m.instance.verified,
                m.terms.grace,
                m.kind,
                m.attaching.wanted,
                m.link,
                m.attaching.presented,
            ),
            (m.sender.sent, m.sender.acked, m.receiver.have, m.receiver.recv, len(m.receiver.hold), m.had_hello),
            (m.closing, m.ending, m.saying.farewell, m.drained, m.saying.peer_closing, m.saying.acks.told),
            (m.attaching.progress, m.attaching.attached),
            (
                m.uplink.taken,
                m.uplink.failures > 0,
                m.uplink.in_flight is not None,
                m.attaching.retry_at == 0,
                m.saying.acks.at == 0,
            ),
        )

    def _wire_key(self, wire: Wire) -> tuple[Any, ...]:
        newest = wire.client != NOBODY and self._is_newest(wire)
        up = tuple(_nameless(thing) for thing in wire.up)
        attached = self.server.attachment is not None and self.server.attachment.number == wire.at_server
        return (wire.client, newest, wire.what, up, wire.down, wire.at_client, bool(wire.at_server), attached)

    def _is_newest(self, wire: Wire) -> bool:
        machine = self.tabs[wire.client].machine
        if wire.what == "post":
            return machine.uplink.in_flight is not None and machine.uplink.in_flight.number == wire.number
        return wire.number == machine.attachment


def _nameless(thing: Any) -> Any:
    if isinstance(thing, act.Attach):
        return ("attach", thing.kind, thing.a, thing.ack, thing.wait)
    if isinstance(thing, act.Post):
        return ("post", thing.a, thing.ack, thing.frames)
    return thing
