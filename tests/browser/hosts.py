"""The servers that pages are tried on."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import uvicorn

from channelkit import ASGIApp, run_server
from channelkit.responding import Handler

Backend = Literal["asyncio", "trio"]


@contextmanager
def under_uvicorn(handler: Handler) -> Iterator[int]:
    """The port of uvicorn, in a thread."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        host = uvicorn.Server(uvicorn.Config(ASGIApp(handler, handle_signals=False), log_level="warning"))
        thread = threading.Thread(target=host.run, args=([listener],), name="uvicorn")
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            host.should_exit = host.force_exit = True
            thread.join()


@contextmanager
def under_our_server(handler: Handler, backend: Backend) -> Iterator[int]:
    """The port of our own."""
    running = run_server(handler, port=0, backend=backend)
    yield running.port
    running.stop(timeout=0.1)
