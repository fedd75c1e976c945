"""The event loop as the rest of channelkit sees it.  The only package that imports asyncio or trio.

A `Loop` runs things soon, at a time, when a descriptor is readable, or as a task; it parks a task on the cheapest
thing the backend has; and it lets other threads in.  All tasks live in the anyio task group of `open_loop`.
"""

from channelkit._loop.asyncio_loop import tell_no_library as tell_no_library
from channelkit._loop.base import Loop as Loop
from channelkit._loop.bell import Bell as Bell
from channelkit._loop.detached import detach as detach
from channelkit._loop.opening import open_loop as open_loop
from channelkit._loop.parking import Parking as Parking
from channelkit._loop.timer import Timer as Timer
