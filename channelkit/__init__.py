"""One Channel for every way a server can talk to a client, on asyncio and trio."""

from channelkit.asgi.hosted.application import ASGIApp as ASGIApp
from channelkit.asgi.hosting.handler import ASGIHandler as ASGIHandler
from channelkit.channel import Channel as Channel
from channelkit.channel import ChannelStatistics as ChannelStatistics
from channelkit.config import Config as Config
from channelkit.config import SessionConfig as SessionConfig
from channelkit.endpoint import Endpoint as Endpoint
from channelkit.errors import BadFrame as BadFrame
from channelkit.errors import BadRequest as BadRequest
from channelkit.errors import ChannelClosed as ChannelClosed
from channelkit.errors import ChannelKitError as ChannelKitError
from channelkit.errors import ConfigError as ConfigError
from channelkit.errors import Disconnected as Disconnected
from channelkit.errors import HandlerError as HandlerError
from channelkit.errors import LifespanFailed as LifespanFailed
from channelkit.errors import LocalError as LocalError
from channelkit.errors import NotAvailable as NotAvailable
from channelkit.errors import ReceiveUnsupported as ReceiveUnsupported
from channelkit.errors import RemoteError as RemoteError
from channelkit.group import Group as Group
from channelkit.handlers import as_channel as as_channel
from channelkit.handlers import with_channel as with_channel
from channelkit.http import Headers as Headers
from channelkit.http import Request as Request
from channelkit.http import Response as Response
from channelkit.http import reject as reject
from channelkit.listen import Listen as Listen
from channelkit.server.run import Server as Server
from channelkit.server.run import run_server as run_server
from channelkit.server.run import serve as serve
from channelkit.status import CloseInfo as CloseInfo
from channelkit.status import CloseStatus as CloseStatus
from channelkit.timer import ScheduledTask as ScheduledTask
from channelkit.timer import cancel as cancel
from channelkit.timer import schedule_task as schedule_task
from channelkit.timer import with_timeout as with_timeout
from channelkit.tls import TLS as TLS
from channelkit.tls import TLSInfo as TLSInfo
from channelkit.transports.session_channel import SessionChannel as SessionChannel
from channelkit.wire.deflate import Deflate as Deflate
from channelkit.wire.websocket_handshake import sec_websocket_accept as sec_websocket_accept

__version__ = "0.1.0.dev0"
