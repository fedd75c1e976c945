"""Addresses below an endpoint's URL: /ck, /ck/WAY, /ck/SID and /ck/SID/WAY (docs/protocol.md, "HTTP")."""

from __future__ import annotations

import re
from dataclasses import dataclass

# An id is 22 characters of base64url, perhaps behind a routing hint; the name of a way is shorter than any id.
_ADDRESS = re.compile(r".*/ck(?:/(?P<sid>[A-Za-z0-9_-]{16,128}))?(?:/(?P<way>[a-z][a-z0-9_-]{0,14}))?")


@dataclass(frozen=True, slots=True)
class Address:
    """What a request asks for: `sid` is the session's id, `way` the name of a carrier; None where it has none."""

    sid: str | None
    way: str | None

    @property
    def methods(self) -> str:
        """The methods this address has, as Allow lists them."""
        if self.way is not None:
            return "GET"
        return "POST" if self.sid is None else "POST, DELETE"


def parse_address(path: str) -> Address | None:
    """The address of a decoded path; None if it is none of a session."""
    found = _ADDRESS.fullmatch(path)
    return None if found is None else Address(found["sid"], found["way"])
