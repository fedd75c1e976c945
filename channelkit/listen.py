"""`Listen`: one place a server listens on, and what is different there.

A noun: nothing is opened here, that is `server/listener.py`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ssl import SSLContext
from typing import Any, Literal, Self, TypeAlias

from channelkit._trust import trusted
from channelkit.errors import ConfigError
from channelkit.tls import TLS

ProxyProtocol: TypeAlias = Literal["disable", "enable", "optional"]
Forwarded: TypeAlias = Literal["ignore", "x-forwarded", "forwarded"]

UNIX_PATH_MAX = 107  # bytes: sockaddr_un has 108, and one of them ends the path


@dataclass(frozen=True, slots=True, kw_only=True)
class Listen:
    """One listener: `Listen(ip=, port=)`, `Listen(unix="/run/app.sock")` or `Listen(fd=3)`.

    `ip` is a numeric address; `::` takes IPv4 too, unless `ipv6_only`.  `unix` is a path, or `@name` in Linux's
    abstract namespace (`./@name` for a file called so).  The file gets `mode`, and `owner` and `group` if given, before
    the first client can connect; a file that a dead server left is replaced, anything else at that path is an error.
    `fd` is a listening stream socket that this process has inherited or opened; the server works on a duplicate and
    never closes the original.

    What is None here is as the server has it; see `Config`.  Raises ConfigError for what cannot work.
    """

    ip: str | None = None
    port: int | None = None  # None with an ip: the server's; 0: any free one
    ipv6_only: bool = False  # `::` without IPv4, for when 0.0.0.0 has a listener of its own
    reuse_port: bool | None = None
    unix: str | os.PathLike[str] | None = None
    mode: int = 0o660  # this user and its group: add the front server's user to the group, or give its `group`
    owner: str | int | None = None
    group: str | int | None = None
    fd: int | None = None
    backlog: int | None = None
    ssl: SSLContext | TLS | None = None
    proxy_protocol: ProxyProtocol | None = None
    forwarded: Forwarded | None = None
    trusted_proxies: Sequence[str] | None = None

    def __post_init__(self) -> None:
        kinds = [name for name in ("ip", "unix", "fd") if getattr(self, name) is not None]
        if self.port is not None and not kinds:
            kinds = ["ip"]  # Listen(port=8080): at the server's address
        if len(kinds) != 1:
            raise ConfigError(f"a Listen has one of ip (with a port), unix and fd, not {' and '.join(kinds) or 'none'}")
        self._check_fields(kinds[0])
        if self.unix is not None:
            object.__setattr__(self, "unix", _checked_path(self.unix))
        if self.trusted_proxies is not None:
            object.__setattr__(self, "trusted_proxies", checked_proxies(self.trusted_proxies))

    def _check_fields(self, kind: str) -> None:
        for name, (belongs, unset) in _BELONGS.items():
            if kind not in belongs and getattr(self, name) != unset:
                raise ConfigError(f"{name} is nothing for a Listen with {kind}")
        if self.port is not None:
            whole("port", self.port, 0, 65535)
        if self.fd is not None:
            whole("fd", self.fd, 0)
        if self.backlog is not None:
            whole("backlog", self.backlog, 1)
        whole("mode", self.mode, 0, 0o777)
        checked_tls(self.ssl)
        if self.proxy_protocol is not None:
            choice("proxy_protocol", self.proxy_protocol, PROXY_PROTOCOL)
        if self.forwarded is not None:
            choice("forwarded", self.forwarded, FORWARDED)

    @property
    def is_tcp(self) -> bool:
        """Whether it is a TCP port (a descriptor may be one too: that is seen when it is opened)."""
        return self.unix is None and self.fd is None

    @classmethod
    def from_systemd(cls, *names: str, **options: Any) -> list[Self]:
        """The sockets systemd has passed to this process (socket activation), each with `options`.

        With `names` only those whose `FileDescriptorName=` in the .socket unit is among them.  May be called as often
        as wanted; the descriptors stay open.  Raises ConfigError if nothing was passed, or none by these names.
        """
        passed = passed_by_systemd(os.environ, os.getpid())
        found = [cls(fd=fd, **options) for fd, name in passed if not names or name in names]
        if not found:
            there = ", ".join(repr(name) for _, name in passed)
            raise ConfigError(f"systemd passed no socket named {' or '.join(map(repr, names))}, only {there}")
        return found


# Which kinds of listener a field belongs to, and its value when it was not given.
_BELONGS: dict[str, tuple[tuple[str, ...], object]] = {
    "port": (("ip",), None),
    "ipv6_only": (("ip",), False),
    "reuse_port": (("ip",), None),
    "mode": (("unix",), 0o660),
    "owner": (("unix",), None),
    "group": (("unix",), None),
    "backlog": (("ip", "unix"), None),
}

PROXY_PROTOCOL = ("disable", "enable", "optional")
FORWARDED = ("ignore", "x-forwarded", "forwarded")


def whole(name: str, value: object, low: int, high: int | None = None) -> None:
    """Raise ConfigError unless `value` is a whole number in the range."""
    if isinstance(value, bool) or not isinstance(value, int) or value < low or (high is not None and value > high):
        upto = f" to {high}" if high is not None else ""
        shown = oct(value) if name == "mode" and isinstance(value, int) else repr(value)
        upto = " to 0o777, such as 0o660" if name == "mode" else upto
        raise ConfigError(f"{name} must be a whole number from {low}{upto}, not {shown}")


def choice(name: str, value: object, allowed: tuple[object, ...]) -> None:
    """Raise ConfigError unless `value` is one of the words."""
    if value not in allowed:
        raise ConfigError(f"{name} must be one of {', '.join(map(repr, allowed))}, not {value!r}")


def checked_tls(value: object) -> None:
    """Raise ConfigError unless `value` can be the `ssl` option; whether its files are good is seen at the start."""
    if value is not None and not isinstance(value, SSLContext | TLS):
        raise ConfigError(f"ssl must be an ssl.SSLContext or TLS(certificate=..., key=...), not {value!r}")


def checked_proxies(value: object) -> tuple[str, ...]:
    """`trusted_proxies` as a tuple of words that all mean something, or ConfigError."""
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise ConfigError(f'trusted_proxies must be a list such as ["127.0.0.1", "10.0.0.0/8", "unix"], not {value!r}')
    proxies = tuple(value)
    trusted(proxies)
    return proxies


def _checked_path(path: str | os.PathLike[str]) -> str:
    text = os.fspath(path)
    if not isinstance(text, str) or not text.removeprefix("@") or "\0" in text:
        raise ConfigError(f"unix must be the path of a socket, or @name, not {path!r}")
    size = len(os.fsencode(text))
    if size > UNIX_PATH_MAX:
        raise ConfigError(
            f"the path of a UNIX socket has at most {UNIX_PATH_MAX} bytes, {text!r} has {size}; "
            "use a shorter or a relative one"
        )
    return text


def passed_by_systemd(environ: Mapping[str, str], own_pid: int, first: int = 3) -> list[tuple[int, str]]:
    """(descriptor, name) of what systemd passed, from descriptor `first` on; see sd_listen_fds(3)."""
    count, pid = environ.get("LISTEN_FDS"), environ.get("LISTEN_PID")
    if count is None or pid is None:
        raise ConfigError("systemd passed no sockets: LISTEN_FDS is not set; start the service by its .socket unit")
    if pid != str(own_pid):
        raise ConfigError(
            f"the sockets of systemd are for process {pid} (LISTEN_PID), this is {own_pid}; "
            "let ExecStart= run this program itself (in a shell script: with exec)"
        )
    if not count.isascii() or not count.isdigit() or int(count) == 0:
        raise ConfigError(f"systemd passed no sockets: LISTEN_FDS is {count!r}")
    names = environ.get("LISTEN_FDNAMES", "").split(":")
    names += ["unknown"] * (int(count) - len(names))
    passed = [(first + number, names[number] or "unknown") for number in range(int(count))]
    for fd, _ in passed:
        try:
            os.set_inheritable(fd, False)
        except OSError:
            raise ConfigError(f"LISTEN_FDS is {count}, but descriptor {fd} is not open") from None
    return passed
