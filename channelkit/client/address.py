"""The address of an endpoint: where to connect, and the targets of a session's requests."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from channelkit.errors import ConfigError

_SECURE = {"http": False, "ws": False, "https": True, "wss": True}


@dataclass(frozen=True, slots=True)
class Address:
    """`base` is the target that ends in /ck; `host` is the Host field."""

    name: str
    port: int
    secure: bool
    host: str
    base: str

    @property
    def origin(self) -> str:
        """Scheme and authority, as people write them."""
        return f"{'https' if self.secure else 'http'}://{self.host}"

    def target(self, sid: str | None, way: str = "", **query: object) -> str:
        """The target of a request about session `sid`."""
        path = self.base if sid is None else f"{self.base}/{sid}"
        members = "&".join(f"{name}={value}" for name, value in query.items())
        return f"{path}{'/' if way else ''}{way}{'?' if members else ''}{members}"


def parse_address(url: str) -> Address:
    """Read the URL of an endpoint, or of its sessions (`.../ck`).  ConfigError names what cannot work."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ConfigError(f"{url!r} is not a URL: {error}") from None
    secure = _SECURE.get(parts.scheme)
    if secure is None or not parts.hostname:
        raise ConfigError(f"{url!r} is not a URL that can be reached; write it like http://127.0.0.1:8090/chat")
    if parts.query or parts.fragment or parts.username is not None:
        raise ConfigError("the URL of an endpoint has no query, fragment or user; use headers=")
    if not url.isascii() or any(character <= " " for character in url):
        raise ConfigError(f"{url!r} must be ASCII without blanks; encode the rest as %XX")
    path = parts.path.rstrip("/")
    base = path if path.endswith("/ck") else f"{path}/ck"
    return Address(parts.hostname, port or (443 if secure else 80), secure, parts.netloc, base)
