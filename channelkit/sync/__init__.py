"""The blocking face: SyncRequest, SyncChannel and SyncGroup, for plain `def` handlers and for any other thread.

Each stands for an object of the loop and holds nothing of its own.  What is known without asking (`is_open`,
`close_info`, `request`) is read at once; everything else is one call into the loop, and its caller waits.  All methods
may be called from any thread but the loop's own, which would wait for itself: there the loop's object is at hand.
"""

from channelkit.sync.channel import SyncChannel as SyncChannel
from channelkit.sync.group import SyncGroup as SyncGroup
from channelkit.sync.request import SyncRequest as SyncRequest
