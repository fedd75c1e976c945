"""A client in Python: `async with connect("http://127.0.0.1:8090/chat") as channel: await channel.send("hi")`.

The session lives on through cut connections and moves among transports; nothing is lost, repeated or reordered without
being told (docs/protocol.md).
"""

from channelkit.client.channel import ClientChannel
from channelkit.client.connecting import connect
from channelkit.client.errors import ConnectFailed
from channelkit.session.client import ClientConfig, Saved

__all__ = ["ClientChannel", "ClientConfig", "ConnectFailed", "Saved", "connect"]
