"""`Endpoint`: one URL for every transport, with sessions below it (docs/protocol.md).

    room = Endpoint(chat_room)          # async def chat_room(channel): ...
    serve(room)                         # or from your own handler: return await room(request)

The rooms: `endpoint` (options, and what a request is), `addresses` (which part of the URL it asks for), `admission`
(origin, credential, principal), `table` (the sessions there are), `visit` (one request that carries a session) and
`uplink` (messages that come by POST).
"""

from channelkit.endpoint.endpoint import Endpoint as Endpoint
