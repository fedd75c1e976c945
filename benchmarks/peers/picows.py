"""picows, by its listener: synchronous callbacks in Cython.  WebSockets only, so it has no /hello.

The package is imported by name because it is no dependency, not even of the benchmarks: without it, type checkers
would know another `WSListener` than with it.
"""

from __future__ import annotations

import importlib
from typing import Any

from benchmarks.peers._options import BACKLOG, HOST, port_and_uvloop, run_asyncio

picows: Any = importlib.import_module("picows")
DATA = (picows.WSMsgType.TEXT, picows.WSMsgType.BINARY)
fan: set[Any] = set()


class Echo(picows.WSListener):  # type: ignore[misc]
    """Every message back."""

    def on_ws_frame(self, transport: Any, frame: Any) -> None:
        """A frame, valid only during this call."""
        if frame.msg_type in DATA:
            transport.send(frame.msg_type, frame.get_payload_as_memoryview())
        elif frame.msg_type == picows.WSMsgType.CLOSE:
            transport.send_close()
            transport.disconnect()


class Fan(picows.WSListener):  # type: ignore[misc]
    """Every message to all, the sender too."""

    def on_ws_connected(self, transport: Any) -> None:
        """Join."""
        fan.add(transport)

    def on_ws_disconnected(self, transport: Any) -> None:
        """Leave."""
        fan.discard(transport)

    def on_ws_frame(self, transport: Any, frame: Any) -> None:
        """A frame, valid only during this call."""
        if frame.msg_type not in DATA:
            return
        payload = frame.get_payload_as_bytes()
        for member in fan:
            member.send(frame.msg_type, payload)


def listener(request: Any) -> Echo | Fan:
    """The two WebSocket endpoints."""
    return Fan() if request.path in ("/fan", b"/fan") else Echo()


async def main(port: int) -> None:
    """Serve until killed."""
    server = await picows.ws_create_server(listener, HOST, port, backlog=BACKLOG)
    await server.serve_forever()


if __name__ == "__main__":
    port, uvloop = port_and_uvloop(__doc__)
    run_asyncio(main(port), uvloop=uvloop)
