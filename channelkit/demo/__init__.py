"""The demo: a chat room one can open in a browser, with `channelkit demo`."""

from __future__ import annotations

from channelkit.demo.chat import Chat as Chat
