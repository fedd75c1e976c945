"""Clients for the plans: what a peer says and understands, built on wsproto and h11, never on our own codecs.

The protocols (`WebSocketPeer`, `HttpPeer`) are sans-I/O: bytes in, records and answers out.  `PeerConnection` moves
their bytes over any stream, and misbehaves when asked: stops reading, falls silent, hangs up half or wholly.
`SocketEnd` is the peer's end of a socketpair.
"""

from channelkit.testing.peers.connection import Hangable as Hangable
from channelkit.testing.peers.connection import PeerConnection as PeerConnection
from channelkit.testing.peers.connection import PeerProtocol as PeerProtocol
from channelkit.testing.peers.formats import Payload as Payload
from channelkit.testing.peers.formats import read_ndjson as read_ndjson
from channelkit.testing.peers.formats import read_sse as read_sse
from channelkit.testing.peers.http import HttpPeer as HttpPeer
from channelkit.testing.peers.http import ParsedResponse as ParsedResponse
from channelkit.testing.peers.socket_end import READ_SIZE as READ_SIZE
from channelkit.testing.peers.socket_end import SocketEnd as SocketEnd
from channelkit.testing.peers.websocket import WebSocketPeer as WebSocketPeer
