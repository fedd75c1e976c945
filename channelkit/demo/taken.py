"""What the chat takes from people and what it refuses; pure.  Whoever is refused is told why, in a person's words."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from channelkit import Response

MAX_NAME = 24  # characters; what fits a phone's list of people
MAX_TEXT = 500  # characters
MAX_BYTES = 8 * 1024  # 500 characters at JSON's worst, 12 bytes each, and what is around them
TRANSPORTS = ("websocket", "http_stream", "events", "long_poll")

PLAIN = {"Content-Type": "text/plain; charset=utf-8"}


class Refused(Exception):
    """Something that is not taken: the HTTP status that says so, and the reason."""

    def __init__(self, status: int, reason: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(reason)
        self.response = Response(status, {**PLAIN, **(headers or {})}, reason + "\n")
        self.reason = reason


class Pace:
    """So many at once, then so many a second.  Two numbers and a time, however much is asked."""

    def __init__(self, at_once: int, a_second: float) -> None:
        self._between = 1 / a_second
        self._credit = (at_once - 1) / a_second
        self._due = 0.0  # when everything that was taken would be paid for

    def wait(self, now: float) -> float:
        """Seconds until the next may be taken."""
        return max(0.0, self._due - self._credit - now)

    def take(self, now: float) -> None:
        """One is taken."""
        self._due = max(self._due, now) + self._between


def as_object(raw: str | bytes) -> dict[str, Any]:
    """A message of a person: a JSON object."""
    # Bytes, but no characters are counted: a str has at least as many bytes, so the cheap check is enough.
    if len(raw) > MAX_BYTES:
        raise Refused(413, f"too long: at most {MAX_BYTES} bytes")
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):  # not UTF-8, not JSON, or nested to make the parser fail
        raise Refused(400, 'not JSON: send an object like {"text": "hello"}') from None
    if not isinstance(value, dict):
        raise Refused(400, 'not a JSON object: send one like {"text": "hello"}')
    return value


def as_text(text: object) -> str:
    """Something to say."""
    if not isinstance(text, str) or not text.strip():
        raise Refused(400, 'nothing to say: "text" must be a text that is not empty')
    if len(text) > MAX_TEXT:
        raise Refused(400, f"too long: a message has at most {MAX_TEXT} characters, this one has {len(text)}")
    return text.strip()


def as_name(given: object) -> str:
    """What somebody wants to be called: one line, nothing invisible."""
    text = given if isinstance(given, str) else ""
    name = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    if not name:
        raise Refused(400, 'who are you? send {"name": "..."}, or come with ?name=...')
    if len(name) > MAX_NAME:
        raise Refused(400, f"too long: a name has at most {MAX_NAME} characters, this one has {len(name)}")
    return name


def as_transport(given: object) -> str:
    """What somebody says they talk over: the session cannot know better, and does not care."""
    if given not in TRANSPORTS:
        raise Refused(400, f'"transport" must be one of {", ".join(TRANSPORTS)}')
    return str(given)
