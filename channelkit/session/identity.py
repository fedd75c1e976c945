"""Ids, secrets and instance numbers.  Whoever supplies the randomness is told how much; time is an argument."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets

from channelkit.session.frames import MAX_NUMBER

SID_BYTES = 16
SID_LENGTH = 22  # of them as text
SECRET_BYTES = 32

#: What a presented secret is compared with where no session is: the same work, and never equal.
_NOBODY = bytes(32)


def new_sid(hint: str = "") -> str:
    """A public id of 128 random bits, behind an optional routing hint (letters, digits, `-` and `_`)."""
    return hint + _url64(secrets.token_bytes(SID_BYTES))


def name_in(sid: str) -> str:
    """The hint that an id was made with."""
    return sid[:-SID_LENGTH]


def new_secret() -> str:
    """256 random bits, for the Authorization header."""
    return _url64(secrets.token_bytes(SECRET_BYTES))


def digest(secret: str) -> bytes:
    """What a server keeps of a secret."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def matches(kept: bytes | None, presented: str | None) -> bool:
    """Compare in constant time; `kept` is None where no session is, `presented` where none came."""
    equal = hmac.compare_digest(_NOBODY if kept is None else kept, digest(presented or ""))
    return equal & (kept is not None) & (presented is not None)


def next_instance(a: int, now_ms: int, digits: int) -> int:
    """The number of an instance that takes over from `a`: larger than it and, by the clock, than any twin's.

    `digits` are three random ones, 0 to 999: two tabs copied in the same millisecond differ.
    """
    return min(max(a + 1, now_ms * 1000 + digits), MAX_NUMBER)


def _url64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")
