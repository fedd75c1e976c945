"""The one codec of CK/1: every frame in every form, and back (docs/protocol.md, "Frames").

    form                     out                   in
    line of JSON (NDJSON)    encode_line           LineFrames (a client's stream), decode_batch (a POST)
    WebSocket message        encode_websocket      decode_websocket
    block of SSE             encode_event          EventFrames
    body of one message      -                     decode_body
    answers of a request     encode_answer         decode_answer

`lines`, `websocket`, `events` and `bodies` are the forms, `hello` is the frame that all of them carry as JSON, `values`
what else they share; `halves` is for a message that goes to many.

A client and a server read all frames alike but `h`, so the readers take `hello`, which says whose hello is expected.
Foreign input raises `BadMessage` or `MessageTooBig` and nothing else, after what preceded it was given.  Unknown
frames give None; unknown members are ignored.  Lengths are judged before anything is decoded or kept.
"""

from channelkit.session.codec.bodies import decode_answer as decode_answer
from channelkit.session.codec.bodies import decode_body as decode_body
from channelkit.session.codec.bodies import encode_answer as encode_answer
from channelkit.session.codec.bodies import media_type as media_type
from channelkit.session.codec.events import REFUSED_RETRY_MS as REFUSED_RETRY_MS
from channelkit.session.codec.events import RETRY_MS as RETRY_MS
from channelkit.session.codec.events import SSE_PING as SSE_PING
from channelkit.session.codec.events import EventFrames as EventFrames
from channelkit.session.codec.events import encode_event as encode_event
from channelkit.session.codec.events import encode_event_refusal as encode_event_refusal
from channelkit.session.codec.events import event_halves as event_halves
from channelkit.session.codec.halves import Halves as Halves
from channelkit.session.codec.halves import around as around
from channelkit.session.codec.hello import ReadHello as ReadHello
from channelkit.session.codec.hello import client_hello_members as client_hello_members
from channelkit.session.codec.hello import hello_members as hello_members
from channelkit.session.codec.hello import read_client_hello as read_client_hello
from channelkit.session.codec.hello import read_server_hello as read_server_hello
from channelkit.session.codec.lines import LineFrames as LineFrames
from channelkit.session.codec.lines import check_consecutive as check_consecutive
from channelkit.session.codec.lines import decode_batch as decode_batch
from channelkit.session.codec.lines import decode_line as decode_line
from channelkit.session.codec.lines import encode_line as encode_line
from channelkit.session.codec.lines import line_halves as line_halves
from channelkit.session.codec.values import line_limit as line_limit
from channelkit.session.codec.values import parse_number as parse_number
from channelkit.session.codec.websocket import decode_websocket as decode_websocket
from channelkit.session.codec.websocket import encode_websocket as encode_websocket
