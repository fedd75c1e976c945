"""A session as the server sees it: `machine` (ServerSession), `downlink`, `attachment`, `results`."""

from channelkit.session.server.attachment import Attachment as Attachment
from channelkit.session.server.machine import ServerSession as ServerSession
from channelkit.session.server.results import Admitted as Admitted
from channelkit.session.server.results import Deleted as Deleted
from channelkit.session.server.results import Posted as Posted
from channelkit.session.server.results import Refused as Refused
