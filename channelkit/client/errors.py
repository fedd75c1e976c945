"""What can go wrong before a session exists."""

from __future__ import annotations

from channelkit.errors import ChannelKitError


class ConnectFailed(ChannelKitError):
    """No session could be had at all; the text says why and what to look at."""
