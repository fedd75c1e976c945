"""The layers import downwards only: read from the source, so that a short cut is seen the day it is taken.

Imports under TYPE_CHECKING count too: a layer that knows another's types knows the layer.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "channelkit"
FILES = sorted(PACKAGE.rglob("*.py"))

LOOPS = ("asyncio", "trio")
WAITING = (*LOOPS, "anyio", "socket", "select", "selectors", "ssl", "threading")
# (where, what may not be imported there).  A trailing slash is a folder and everything in it.
RULES = {
    "wire/": (*WAITING, "channelkit.server", "channelkit.transports", "channelkit.channel", "channelkit._loop"),
    "session/": (
        *WAITING,
        "channelkit.server",
        "channelkit.transports",
        "channelkit.channel",
        "channelkit._loop",
        "channelkit.spi",
        "time",
    ),
    "asgi/": ("channelkit.server", "channelkit.transports", *LOOPS),
    "asgi/hosted/": ("channelkit.asgi.hosting",),
    "asgi/hosting/": ("channelkit.asgi.hosted",),
    "client/": ("channelkit.server", "channelkit.transports", "channelkit.endpoint", *LOOPS),
    "endpoint/": ("channelkit.server", "channelkit.asgi", *LOOPS),
    "transports/": ("channelkit.server", *LOOPS),
    "server/": ("channelkit.transports", "channelkit.workers", "channelkit.observing", "channelkit.cli", *LOOPS),
    "observing/": ("channelkit.transports", "channelkit.server", "channelkit.workers", "channelkit.cli", *LOOPS),
    "workers/": ("channelkit.transports", "channelkit.cli", *LOOPS),
    "cli/": LOOPS,
    "statistics.py": ("channelkit.server", "channelkit.transports", "channelkit.observing"),
    "_meters.py": ("channelkit.server", "channelkit.transports", "channelkit.observing"),
    "channel.py": ("channelkit.server", "channelkit.transports"),
    "_lifecycle.py": ("channelkit.server", "channelkit.transports"),
    "_outgoing.py": ("channelkit.server", "channelkit.transports"),
    "_inbox.py": ("channelkit.server", "channelkit.transports"),
    "_callbacks.py": ("channelkit.server", "channelkit.transports"),
    "_incoming.py": ("channelkit.server", "channelkit.transports"),
    "group.py": ("channelkit.server", "channelkit.transports"),
    "handlers.py": ("channelkit.server",),
    "spi.py": ("channelkit.server", "channelkit.transports"),
    "sync/": ("channelkit.server", "channelkit.transports", "channelkit.asgi", "channelkit.endpoint", *LOOPS),
    "_threads/": ("channelkit.server", "channelkit.transports", "channelkit.asgi", "channelkit.sync", *LOOPS),
    "_loop/": ("channelkit.server", "channelkit.transports"),
    "errors.py": ("channelkit.server", "channelkit.transports", "channelkit.channel", *WAITING),
    "status.py": ("channelkit.server", "channelkit.transports", "channelkit.channel", *WAITING),
}


def imports(source: str, package: str) -> Iterator[str]:
    """Every module that `source`, a module of `package`, may load, also `a.b` for `from a import b`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node, package)
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _absolute(node: ast.ImportFrom, package: str) -> str:
    if node.level == 0:
        return node.module or ""
    parts = package.split(".")
    return ".".join([*parts[: len(parts) - node.level + 1], *filter(None, [node.module])])


def offences(path: Path, forbidden: tuple[str, ...]) -> list[str]:
    """The imports of a file that are, or are inside, one of the forbidden modules."""
    package = ".".join(path.relative_to(PACKAGE.parent).parent.parts)
    found = set(imports(path.read_text(encoding="utf-8"), package))
    return sorted(name for name in found for bad in forbidden if name == bad or name.startswith(f"{bad}."))


def members(where: str) -> list[Path]:
    """The files a rule is about."""
    if where.endswith("/"):
        return sorted((PACKAGE / where).rglob("*.py"))
    return [PACKAGE / where]


@pytest.mark.parametrize("where", RULES)
def test_a_layer_imports_nothing_above_it(where: str) -> None:
    """No file of a layer imports what its rule forbids, and every rule is about files that exist."""
    files = members(where)
    assert files
    assert {str(path): bad for path in files if (bad := offences(path, RULES[where]))} == {}


def test_only_the_loop_knows_the_loops() -> None:
    """asyncio and trio are imported in `_loop/` alone; the proving ground, which makes loops, is excepted."""
    allowed = (PACKAGE / "_loop", PACKAGE / "testing")
    others = [path for path in FILES if not any(path.is_relative_to(room) for room in allowed)]
    assert {str(path): bad for path in others if (bad := offences(path, LOOPS))} == {}


def test_the_package_does_not_need_its_proving_ground() -> None:
    """Nothing outside `testing/` imports it."""
    testing = PACKAGE / "testing"
    others = [path for path in FILES if not path.is_relative_to(testing)]
    assert {str(path): bad for path in others if (bad := offences(path, ("channelkit.testing",)))} == {}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import a.b as c", {"a.b"}),
        ("def f():\n    from a import b", {"a", "a.b"}),
        ("from . import x", {"channelkit.wire", "channelkit.wire.x"}),
        ("from .. import server", {"channelkit", "channelkit.server"}),
        ("from ..server.run import serve", {"channelkit.server.run", "channelkit.server.run.serve"}),
    ],
)
def test_every_form_of_import_is_read(source: str, expected: set[str]) -> None:
    """Plain, renamed, nested and relative imports all come out with their full names."""
    assert set(imports(source, "channelkit.wire")) == expected
