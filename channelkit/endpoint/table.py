"""The sessions of one endpoint: made within their limits, found by credential, remembered for a while when over."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any

from channelkit._places import place_of
from channelkit.errors import WorkersBusy
from channelkit.session import admission, refusals
from channelkit.session.identity import digest, matches, new_secret, new_sid
from channelkit.session.refusals import Refusal
from channelkit.session.server import ServerSession
from channelkit.transports.session import LiveSession
from channelkit.transports.session_channel import SessionChannel

if TYPE_CHECKING:
    from channelkit._loop import Loop
    from channelkit.config import SessionConfig
    from channelkit.endpoint.failures import Failures
    from channelkit.http import Request
    from channelkit.spi import Exchange


class _Kept:
    """What is kept of a session: the machine's binding, and a hash of the secret."""

    __slots__ = ("digest", "live", "owner")

    def __init__(self, live: LiveSession, secret: str, owner: Hashable) -> None:
        self.live = live
        self.digest = digest(secret)
        self.owner = owner  # whose sessions are counted together


class Sessions:
    """All sessions, open ones and those whose end is remembered.  `begin(channel)` starts the application's handler.

    A `principal` that is a Refusal is that of nobody: who was not even asked for it (`Admission.principal`).
    """

    def __init__(
        self, config: SessionConfig, failures: Failures, begin: Callable[[SessionChannel], None], *, plain: bool
    ) -> None:
        self.config = config
        self._failures = failures
        self._plain = plain  # the handler needs a worker
        self._begin = begin
        self._sessions: dict[str, _Kept] = {}
        self.count = 0  # of those that are open
        self._owners: Counter[Hashable] = Counter()  # whose they are
        self._ended: deque[tuple[float, LiveSession]] = deque()  # tombstones, by when they may be forgotten

    def channel(self, session_id: str) -> SessionChannel | None:
        """The channel of an open session, or None."""
        kept = self._sessions.get(session_id)
        return None if kept is None else kept.live.channel

    def proven(self, loop: Loop, sid: str | None, secret: str | None) -> bool:
        """Whether this is the secret of this session, whoever asks."""
        kept = None if sid is None else self._kept(loop, sid)
        return matches(None if kept is None else kept.digest, secret)

    def find(self, request: Request, loop: Loop, sid: str, secret: str | None, principal: Any) -> LiveSession | Refusal:
        """The session of a credential.  Unknown, wrong secret, wrong principal: one answer, on one path.

        Each is a failed credential; an address that had too many is told to wait in the place of that answer.
        """
        if isinstance(principal, Refusal):
            return principal
        kept = self._kept(loop, sid)
        refusal = admission.credential(
            known=kept is not None,
            secret_matches=matches(None if kept is None else kept.digest, secret),
            principal_matches=kept is not None and kept.live.principal == principal,
        )
        if refusal is None:
            assert kept is not None
            return kept.live
        place = place_of(request.client)
        if (wait := self._failures.wait(place, loop.time())) is not None:
            loop.tally.hit("failed_credentials", f"{place!r} is held back")
            return refusals.guessing(wait)
        self._failures.add(place, loop.time())
        return refusal

    def _kept(self, loop: Loop, sid: str) -> _Kept | None:
        self._forget(loop)
        kept = self._sessions.get(sid)
        if kept is not None and kept.live.loop.native is not loop.native:
            return None  # of another event loop, which nobody could reach from here
        return kept

    def make(self, request: Request, exchange: Exchange, principal: Any, a: int) -> tuple[LiveSession, str] | Refusal:
        """A new session and its secret, or why there is none."""
        if isinstance(principal, Refusal):
            return principal
        self._forget(exchange.loop)
        owner = principal if principal is not None else place_of(request.client)
        if exchange.host.stopping:
            return refusals.draining(None)
        if self.count >= self.config.max_sessions:
            exchange.loop.tally.hit("max_sessions", "a session was not made")
            return refusals.crowded()
        if self._owners[owner] >= self.config.max_sessions_per_principal:
            exchange.loop.tally.hit("max_sessions_per_principal", f"{owner!r} has that many")
            return refusals.crowded(own_fault=True)
        if self._plain:
            try:
                exchange.host.workers.check_room()
            except WorkersBusy:
                return refusals.crowded()
        secret = new_secret()
        company = exchange.host.company
        sid = new_sid("" if company is None else company.name)
        machine = ServerSession(sid, self.config, exchange.loop.time(), a=a)
        live = LiveSession(machine, request, exchange, principal, self._begin, self._over)
        self._sessions[machine.sid] = _Kept(live, secret, owner)
        self._owners[owner] += 1
        self.count += 1
        return live, secret

    def _over(self, live: LiveSession) -> None:
        kept = self._sessions[live.machine.sid]
        self.count -= 1
        self._owners[kept.owner] -= 1
        if not self._owners[kept.owner]:
            del self._owners[kept.owner]
        self._ended.append((live.machine.forget_at, live))
        if len(self._ended) > self.config.max_sessions:  # who makes and deletes without end uses up no memory
            self._forget_oldest()

    def _forget(self, loop: Loop) -> None:
        """Drop the tombstones whose grace is over."""
        while self._ended:
            when, live = self._ended[0]
            if live.loop.native is loop.native and when > loop.time():
                return
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        _, live = self._ended.popleft()
        del self._sessions[live.machine.sid]
