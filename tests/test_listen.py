"""`Listen`: what it takes, what it refuses, and what systemd passes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from channelkit import Config, ConfigError, Listen
from channelkit.listen import passed_by_systemd


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "not none"),
        ({"ip": "::", "unix": "/x"}, "ip and unix"),
        ({"fd": 3, "unix": "/x"}, "unix and fd"),
        ({"unix": "/x", "port": 1}, "port is nothing for a Listen with unix"),
        ({"fd": 3, "backlog": 5}, "backlog is nothing for a Listen with fd"),
        ({"ip": "::", "mode": 0o600}, "mode is nothing for a Listen with ip"),
        ({"unix": "/x", "reuse_port": True}, "reuse_port is nothing"),
        ({"ip": "::", "port": 65536}, "port must be a whole number from 0 to 65535"),
        ({"ip": "::", "port": "80"}, "port must be"),
        ({"fd": -1}, "fd must be a whole number from 0"),
        ({"fd": True}, "fd must be"),
        ({"ip": "::", "backlog": 0}, "backlog must be"),
        ({"unix": "/x", "mode": 0o1777}, "mode must be a whole number from 0 to 0o777, such as 0o660, not 0o1777"),
        ({"unix": "/x", "mode": "660"}, "mode must be"),
        ({"unix": ""}, "unix must be the path of a socket"),
        ({"unix": "@"}, "unix must be the path of a socket"),
        ({"unix": "a\0b"}, "unix must be the path of a socket"),
        ({"unix": b"/x"}, "unix must be the path of a socket"),
        ({"unix": "/" + 107 * "x"}, "at most 107 bytes"),
        ({"unix": "/" + 53 * "ä" + "x"}, "has 108"),
        ({"fd": 3, "proxy_protocol": "on"}, "proxy_protocol must be one of 'disable'"),
        ({"fd": 3, "forwarded": True}, "forwarded must be one of 'ignore'"),
        ({"fd": 3, "trusted_proxies": "10.0.0.1"}, "trusted_proxies must be a list"),
        ({"fd": 3, "trusted_proxies": ["proxy.example"]}, "trusted_proxies has 'proxy.example'"),
    ],
)
def test_a_mistake_is_named(options: dict[str, Any], text: str) -> None:
    """Each impossible listener says what is wrong, when it is made."""
    with pytest.raises(ConfigError, match=text.replace("(", r"\(")):
        Listen(**options)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"listen": []}, "at least one Listen"),
        ({"listen": Listen(fd=3)}, "listen must be a list of Listen"),
        ({"listen": ["127.0.0.1:80"]}, "at least one Listen"),
        ({"listen": [Listen(fd=3)], "port": 80}, "no Listen uses them"),
        ({"proxy_protocol": "enable"}, "name their addresses or networks"),
        ({"forwarded": "x-forwarded"}, "name their addresses or networks"),
        ({"listen": [Listen(fd=3, proxy_protocol="optional")]}, "name their addresses"),
        ({"proxy_protocol": "enable", "listen": [Listen(fd=3, trusted_proxies=["*"]), Listen(fd=4)]}, "name their"),
        ({"reuse_port": 1}, "reuse_port must be True or False"),
    ],
)
def test_a_mistake_of_the_whole_is_named(options: dict[str, Any], text: str) -> None:
    """What only shows when listeners and server are seen together is an error of the options too."""
    with pytest.raises(ConfigError, match=text):
        Config(**options)


def test_what_a_listener_leaves_out_is_as_the_server_has_it() -> None:
    """Each option of a listener wins over the server's, for its own connections only."""
    config = Config(
        port=80,
        backlog=5,
        trusted_proxies=["10.0.0.1"],
        listen=[
            Listen(ip="0.0.0.0"),
            Listen(port=81, backlog=6, reuse_port=True),
            Listen(unix="/x", proxy_protocol="enable", trusted_proxies=["unix"]),
            Listen(fd=3, forwarded="forwarded"),
        ],
    )
    tcp, other, unix, fd = config.listeners
    assert (tcp.ip, tcp.port, other.ip, other.port) == ("0.0.0.0", 80, "127.0.0.1", 81)
    assert [config.at(one).backlog for one in config.listeners] == [5, 6, 5, 5]
    assert [config.at(one).reuse_port for one in config.listeners] == [False, True, False, False]
    assert [config.at(one).proxy_protocol for one in config.listeners] == ["disable", "disable", "enable", "disable"]
    assert [config.at(one).trusts(None) for one in (tcp, unix, fd)] == [False, True, False]
    assert [config.at(one).trusts(("10.0.0.1", 1)) for one in (tcp, unix, fd)] == [True, False, True]
    assert [config.at(one).forwarded for one in (tcp, unix, fd)] == ["ignore", "ignore", "forwarded"]


def test_ip_and_port_alone_make_one_listener() -> None:
    """Without `listen` there is one TCP listener."""
    (listen,) = Config(ip="::1", port=0).listeners
    assert (listen.ip, listen.port, listen.is_tcp) == ("::1", 0, True)


# -- systemd

OWN = 42  # the process's number, as far as the tests of the environment go


@pytest.fixture
def first() -> Iterator[int]:
    """The first of two sockets at neighbouring descriptors, far from those in use."""
    first = 3000
    with socket.socket() as sock:
        for fd in (first, first + 1):
            os.dup2(sock.fileno(), fd, inheritable=True)
        yield first
        for fd in (first, first + 1):
            os.close(fd)


def environment(**changes: str | None) -> dict[str, str]:
    whole = {"LISTEN_PID": str(OWN), "LISTEN_FDS": "2", "LISTEN_FDNAMES": "web:admin", **changes}
    return {name: value for name, value in whole.items() if value is not None}


def test_systemd_passes_sockets_with_names(first: int) -> None:
    """All of them in order; what a child must not inherit is made so; without a name it is systemd's own word."""
    assert passed_by_systemd(environment(), OWN, first) == [(first, "web"), (first + 1, "admin")]
    assert not os.get_inheritable(first)
    assert not os.get_inheritable(first + 1)
    unnamed = environment(LISTEN_FDNAMES=None)
    assert [name for _, name in passed_by_systemd(unnamed, OWN, first)] == ["unknown", "unknown"]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"LISTEN_FDS": None}, "LISTEN_FDS is not set"),
        ({"LISTEN_PID": None}, "LISTEN_FDS is not set"),
        ({"LISTEN_PID": "1"}, "for process 1 .*, this is 42; .* with exec"),
        ({"LISTEN_FDS": "0"}, "LISTEN_FDS is '0'"),
        ({"LISTEN_FDS": "two"}, "LISTEN_FDS is 'two'"),
        ({"LISTEN_FDS": "3"}, "descriptor 3002 is not open"),
    ],
)
def test_systemd_has_passed_nothing(first: int, changes: dict[str, str | None], text: str) -> None:
    """Started without its .socket unit, or by a wrapper: the error tells which."""
    with pytest.raises(ConfigError, match=text):
        passed_by_systemd(environment(**changes), OWN, first)


ACTIVATED = """
import os, socket, sys
from channelkit import ConfigError, Listen
if len(sys.argv) == 1:  # what systemd does before it starts us
    with socket.socket() as one, socket.socket() as other:
        os.dup2(os.dup(one.fileno()), 3), os.dup2(os.dup(other.fileno()), 4)
        os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="2", LISTEN_FDNAMES="web:admin")
        os.execv(sys.executable, [sys.executable, "-P", "-c", os.environ["PROGRAM"], "started"])
print([one.fd for one in Listen.from_systemd()], [one.fd for one in Listen.from_systemd("admin")])
print([(one.fd, one.proxy_protocol) for one in Listen.from_systemd("web", proxy_protocol="optional")])
try:
    Listen.from_systemd("other")
except ConfigError as error:
    print(error)
"""


def test_a_process_that_systemd_starts_finds_its_sockets() -> None:
    """From descriptor 3 on, by name or all, with the options given; a name that is not there is an error."""
    ran = subprocess.run(
        [sys.executable, "-P", "-c", ACTIVATED],
        env={**os.environ, "PROGRAM": ACTIVATED},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert ran.stdout.splitlines() == [
        "[3, 4] [4]",
        "[(3, 'optional')]",
        "systemd passed no socket named 'other', only 'web', 'admin'",
    ]
