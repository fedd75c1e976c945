"""Carriers of other packages: found by their entry point, served like the built-in ones, mistakes told."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from channelkit import Channel, ConfigError, Endpoint, Response, registry
from channelkit.spi import SPI_VERSION, Binary, Hello, SessionTransport, Text, Visit
from channelkit.testing.clock import BACKENDS, Backend
from tests.endpoint.site import HOSTS, Site, echo, endpoint_of, run

PLUGINS = Path(__file__).parents[1] / "plugins"
sys.path.insert(0, str(PLUGINS))

from channelkit_records import Records, RecordSessions  # noqa: E402  (as if it were installed)

everywhere = pytest.mark.parametrize(("where", "backend"), [(where, one) for where in HOSTS for one in BACKENDS])
OFFERED = ("records", "long_poll")


@pytest.fixture
def plugin() -> Iterator[None]:
    if all(one.name != "records" for one in registry.session_transports()):  # found by itself, as when installed
        registry.register(RecordSessions())
    yield
    registry.unregister("records")


def test_found_by_its_entry_point() -> None:
    """Installing the package is all: an Endpoint may name it, and serves its address."""
    program = (
        f"import sys; sys.path.insert(0, {str(PLUGINS)!r})\n"
        "from channelkit import Endpoint, registry\n"
        "Endpoint(on_receive=print, transports=['records'])\n"
        "print([one.name for one in registry.session_transports()])\n"
    )
    command = [sys.executable, "-P", "-c", program]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.stdout == "['websocket', 'http_stream', 'long_poll', 'records']\n", done.stderr


def test_an_installed_one_that_does_not_work_is_named(tmp_path: Path) -> None:
    """Whoever reads the error knows which package to look at."""
    about = tmp_path / "broken-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[channelkit.transports]\npigeons = no_such_module:Pigeons\n")
    program = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from channelkit import Endpoint\n"
        "Endpoint(on_receive=print)\n"
    )
    command = [sys.executable, "-P", "-c", program]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert "the installed transport pigeons = no_such_module:Pigeons does not work: No module named" in done.stderr


def test_it_needs_the_seam_alone() -> None:
    """What the package imports of channelkit: `spi`, and public names."""
    source = (PLUGINS / "channelkit_records" / "__init__.py").read_text()
    imported = {node.module for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom)}
    assert {name for name in imported if name and name.startswith("channelkit")} == {"channelkit", "channelkit.spi"}
    assert isinstance(RecordSessions(), SessionTransport)


@everywhere
@pytest.mark.usefixtures("plugin")
def test_it_carries_a_session(where: str, backend: Backend) -> None:
    """Hello and what is pending, then what comes, an acknowledgement, the end; refused like any other."""

    async def handler(channel: Channel) -> None:
        await channel.send("hi")
        async for message in channel:
            await channel.send(message)
            if message == b"\0bye":
                return

    async def talk(site: Site) -> None:
        await site.create(Origin="https://friend.example")
        assert (await site.session("GET", "/records", Authorization="Bearer wrong")).json["code"] == "unknown"
        assert (await site.session("GET", "/records?ack=7")).json["code"] == "lost"
        assert (await site.session("GET", "/records?a=x")).json["code"] == "malformed"
        assert (await site.session("POST", "/records")).headers["allow"] == "GET"
        await site.session("POST", "?n=1", b"\0bye", Content_Type="application/octet-stream")
        answer = await site.session("GET", "/records", Origin="https://friend.example")
        frames = Records(1000).feed(answer.body)
        assert isinstance(frames[0], Hello)
        assert frames[0].recv == 1
        assert frames[1:3] == [Text(1, "hi"), Binary(2, b"\0bye")]
        assert (answer.status, answer.headers["access-control-allow-origin"]) == (200, "https://friend.example")
        assert (await site.session("GET", "/stream")).status == 406
        over = await site.session("GET", "/records?ack=3")
        assert (over.status, over.json["code"]) == (410, "ended")

    endpoint = endpoint_of(handler, transports=OFFERED, origins=["https://friend.example"])
    run(endpoint, where, backend, talk)


@everywhere
@pytest.mark.usefixtures("plugin")
def test_it_is_served_only_where_it_is_named(where: str, backend: Backend) -> None:
    """An Endpoint offers the built-in three unless it is told; a way nobody has is told what there is."""

    async def talk(site: Site) -> None:
        await site.create()
        refused = await site.session("GET", "/records")
        assert (refused.status, refused.body) == (406, b"This endpoint does not offer records.\n")
        assert (await site.session("GET", "/pigeons")).status == 426
        assert (await site.ask("GET", "/room/ck/records")).status == 426  # it needs a session to begin with

    run(endpoint_of(), where, backend, talk)


class Wrong:
    """A carrier whose author made one mistake."""

    name = "wrong"
    spi_version = SPI_VERSION
    ways: tuple[str, ...] = ("wrong",)
    hello_first = False

    def __init__(self, **mistake: Any) -> None:
        self.__dict__ |= mistake

    def carry(self, visit: Visit, way: str) -> Response:
        raise AssertionError("never asked")


@pytest.mark.parametrize(
    ("mistake", "told"),
    [
        ({"spi_version": 99}, "written for SPI version 99"),
        ({"name": "long_poll"}, "named 'long_poll' is registered already"),
        ({"name": 7}, "is no transport"),
        ({"ways": ("poll",)}, "the way 'poll' of transport 'wrong' is taken"),
        ({"ways": ("Wrong Way",)}, "cannot be a way"),
        ({"ways": ("a" * 16,)}, "cannot be a way"),
    ],
)
def test_mistakes_are_told_at_registration(mistake: dict[str, Any], told: str) -> None:
    """Before any request: what is wrong, and nothing is registered."""
    before = registry.session_transports()
    with pytest.raises(ConfigError, match=told):
        registry.register(Wrong(**mistake))
    assert registry.session_transports() == before
    with pytest.raises(ConfigError, match=r"transports must be some of .*, not 'wrong'"):
        Endpoint(echo, transports=["wrong"])
    with pytest.raises(ConfigError, match="no transport named 'wrong'"):
        registry.unregister("wrong")
