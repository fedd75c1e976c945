"""What all forms share: numbers, texts, bytes and ends as foreign input, and the limits they are judged by."""

from __future__ import annotations

import re

from channelkit.errors import BadMessage, MessageTooBig
from channelkit.session.frames import MAX_NUMBER, End, may_end
from channelkit.wire import ndjson

_decimal = re.compile(r"0|[1-9][0-9]{0,15}", re.ASCII).fullmatch
SHOWN = 40  # characters of what was wrong that an error repeats


def line_limit(max_message: int) -> int:
    """The longest line, and the largest body of a POST: JSON may escape one byte as six."""
    return 6 * max_message + 1024


def parse_number(text: str, what: str, least: int = 0) -> int:
    """The decimal number `text`, from `least` to 2**53 - 1, without sign, blank or leading zero."""
    if _decimal(text):
        value = int(text)
        if least <= value <= MAX_NUMBER:
            return value
    raise BadMessage(f"{what} must be a decimal number from {least} to 2^53-1, not {text[:SHOWN]!r}")


def read_json(text: str) -> object:
    try:
        return ndjson.loads(text)
    except ValueError as error:
        raise BadMessage(f"not JSON: {str(error)[:SHOWN]}") from None  # never the text: a hello holds a secret


def is_count(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= MAX_NUMBER


def read_count(value: object, what: str, least: int) -> int:
    if isinstance(value, int) and is_count(value, least):
        return value
    raise BadMessage(f"{what} must be a whole number from {least} to 2^53-1, not {str(value)[:SHOWN]}")


def read_text(value: object, max_message: int) -> str:
    if not isinstance(value, str):
        raise BadMessage("a text must be a JSON string")
    if len(value) > max_message or (not value.isascii() and _utf8_size(value) > max_message):
        raise MessageTooBig(f"a text of more than {max_message} bytes")
    return value


def _utf8_size(text: str) -> int:
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        raise BadMessage("a text with a lone surrogate", close_code=1007) from None


def read_bytes(value: object, max_message: int) -> bytes:
    if not isinstance(value, str):
        raise BadMessage("binary data must be a string of base64")
    if len(value) > 4 * (max_message // 3 + 1):
        raise MessageTooBig(f"a message of more than {max_message} bytes")
    try:
        data = ndjson.decode_base64(value)
    except ValueError as error:
        raise BadMessage(f"not base64: {error}") from None
    if len(data) > max_message:
        raise MessageTooBig(f"a message of more than {max_message} bytes")
    return data


def read_end(n: int, code: object, reason: object) -> End:
    if not isinstance(code, int) or not isinstance(reason, str) or not may_end(code, reason):
        raise BadMessage(f"an end needs a close code and a reason as RFC 6455 has them, not {str(code)[:SHOWN]}")
    return End(n, code, reason)
