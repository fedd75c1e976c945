"""A session as the client sees it: the events (`machine`) of a state (`state`) whose parts are the attaches
(`attaching`), what is said (`saying`, `uplink`) and who says it (`instance`, `saved`); its own times are in `config`.
"""

from channelkit.session.client.attaching import Link as Link
from channelkit.session.client.config import ClientConfig as ClientConfig
from channelkit.session.client.machine import ClientSession as ClientSession
from channelkit.session.client.saved import Saved as Saved
from channelkit.session.client.state import Actions as Actions
