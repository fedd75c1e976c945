"""The body of a POST that is one message, and the bodies of answers."""

from __future__ import annotations

import json

from channelkit.errors import BadMessage, MessageTooBig
from channelkit.session.codec.values import is_count
from channelkit.session.frames import Binary, Numbered, Text
from channelkit.wire import ndjson


def decode_body(content_type: str, body: bytes, n: int | None, max_message: int) -> Numbered:
    """The one message of a POST that is no batch: octet-stream is binary, anything else text."""
    if n is None:
        raise BadMessage(
            "a message needs its number: ?n=1 for the first, one more for each; repeat it to send it again"
        )
    if len(body) > max_message:
        raise MessageTooBig(f"a message of {len(body)} bytes; at most {max_message} are taken")
    if media_type(content_type) == "application/octet-stream":
        return Binary(n, body)
    try:
        return Text(n, body.decode())
    except UnicodeDecodeError as error:
        raise BadMessage(f"the body is not UTF-8 ({error.reason}); send bytes as application/octet-stream") from None


def media_type(content_type: str) -> str:
    """The type of a Content-Type field, without its parameters."""
    return content_type.partition(";")[0].strip().lower()


def encode_answer(ack: int | None, code: str | None = None, reason: str = "") -> bytes:
    """The JSON body of a POST's answer, or of a refusal if there is a `code`."""
    members: dict[str, object] = {} if code is None else {"code": code, "reason": reason}
    if ack is not None:
        members["ack"] = ack
    return json.dumps(members, separators=(",", ":")).encode("ascii")


def decode_answer(body: bytes) -> tuple[str | None, int | None]:
    """`code` and `ack` of an answer.  A body that is none (a proxy's page, a cut one) gives None for both."""
    try:
        value = ndjson.loads(body.decode())
    except ValueError:
        return None, None
    if not isinstance(value, dict):
        return None, None
    code, ack = value.get("code"), value.get("ack")
    return (code if isinstance(code, str) else None), (ack if is_count(ack, 0) else None)
