"""The quiet pair: a well-behaved channel beside the one a plan is about (G12)."""

from __future__ import annotations

import anyio

from channelkit.testing.peers import PeerConnection, WebSocketPeer
from channelkit.testing.plans.plan import Network
from channelkit.testing.plans.serving import Server
from channelkit.testing.plans.trace import Trace


class QuietPair:
    """Chats until it is `over`; a round trip, during which it is `talking`, is not to be cut by the drain."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.over = anyio.Event()
        self.talking = anyio.Lock()

    async def chat(self, server: Server) -> None:
        """A well-behaved channel: every round trip has to be quick, whatever happens next to it."""
        protocol = WebSocketPeer("/quiet")
        connection = PeerConnection(server.connect(Network()), protocol)
        connection.say(protocol.request())
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(connection.run)
            await anyio.sleep(0.01)
            while not self.over.is_set():
                async with self.talking:
                    if not self.over.is_set():
                        await self.round_trip(connection, protocol)
                with anyio.move_on_after(7):
                    await self.over.wait()
            connection.hang_up()

    async def round_trip(self, connection: PeerConnection, protocol: WebSocketPeer) -> None:
        text = f"quiet {self.trace.quiet_wanted}"
        self.trace.quiet_wanted += 1
        began = anyio.current_time()
        connection.say(protocol.message(text))
        with anyio.move_on_after(1):
            while len(protocol.messages) < self.trace.quiet_wanted and not connection.over:  # noqa: ASYNC110
                await anyio.sleep(0.01)
        same = protocol.messages[-1:] == [text]
        self.trace.quiet.append((anyio.current_time() - began, same))

    async def stop(self) -> None:
        """After the round trip that is under way, if any."""
        async with self.talking:
            self.over.set()
