"""What a stream's body says."""

from __future__ import annotations

import base64
import json

Payload = str | bytes


def read_sse(body: bytes) -> list[Payload]:
    """The messages of an event stream, by WHATWG HTML 9.2.6, the last incomplete event left out."""
    text = body.decode("utf-8", "strict").removeprefix("\ufeff")
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")[:-1]
    messages: list[Payload] = []
    kind, data = "message", list[str]()
    for line in lines:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line:
            if data:
                messages.append(_event_message(kind, "\n".join(data)))
            kind, data = "message", []
        elif name == "data":
            data.append(value)
        elif name == "event":
            kind = value
    return messages


def _event_message(kind: str, data: str) -> Payload:
    if kind == "ck-b":
        return base64.b64decode(data, validate=True)
    if kind == "ck-j":
        return str(json.loads(data))
    return data


def read_ndjson(body: bytes) -> list[Payload]:
    """The messages of a stream of JSON lines, the last incomplete line left out."""
    values = [json.loads(line) for line in body.split(b"\n")[:-1] if line.strip()]
    return [value if isinstance(value, str) else base64.b64decode(value["base64"], validate=True) for value in values]
