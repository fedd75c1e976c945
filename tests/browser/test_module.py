"""The browser's module as it is shipped and served, and its parts under `node --test`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import pytest

import channelkit
from channelkit import Server, browser, run_server

sys.path.insert(0, str(Path(__file__).parent))

import node

IMPORT = re.compile(rb'^(?:import|\} from|import .* from) .*?"\./([a-z]+\.js)";', re.MULTILINE)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    async def site(request: channelkit.Request) -> channelkit.Response:
        return browser.file(request)

    running = run_server(site, port=0)
    yield running
    running.stop(timeout=1)


def test_the_package_ships_it() -> None:
    """Every module that one of them imports is there, and what a page imports is one of them."""
    files = browser.files()
    assert browser.MODULE in files
    imported = {name.decode() for body in files.values() for name in IMPORT.findall(body)}
    assert imported == files.keys() - {browser.MODULE}
    assert (resources.files("channelkit.browser") / "package.json").is_file()  # else node reads them as CommonJS


def fetch(server: Server, name: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{server.port}/static/{name}",
        method=method,
        headers={k.replace("_", "-"): v for k, v in headers.items()},
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, {k.lower(): v for k, v in answer.headers.items()}, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, {k.lower(): v for k, v in error.headers.items()}, error.read()


def test_it_is_served(server: Server) -> None:
    """As JavaScript, to be asked for again each time, which costs a 304; nothing else comes out of the folder."""
    status, headers, body = fetch(server, "channelkit.js")
    assert (status, body) == (200, browser.files()["channelkit.js"])
    assert headers["content-type"] == "text/javascript; charset=utf-8"
    assert headers["cache-control"] == "no-cache"
    assert fetch(server, "machine.js", If_None_Match=headers["etag"])[::2] == (304, b"")
    assert fetch(server, "machine.js", If_None_Match='"other"')[0] == 200
    assert fetch(server, "machine.js", "HEAD")[::2] == (200, b"")
    assert fetch(server, "machine.js", "POST")[0] == 405
    for name in ("__init__.py", "package.json", "..%2f__init__.py", ""):
        status, _, body = fetch(server, name)
        assert status == 404
        assert b"there are: alarm.js, attaching.js, channelkit.js" in body


@pytest.mark.skipif(node.NODE is None, reason=node.MISSING)
@pytest.mark.parametrize("name", ["channel", "parts"])
def test_in_node(name: str) -> None:
    """What node says of js/NAME.test.mjs."""
    assert node.NODE is not None
    done = subprocess.run(
        [node.NODE, "--test", str(node.PROGRAMS / f"{name}.test.mjs")],
        env={**os.environ, "CHANNELKIT_MODULES": str(node.MODULES)},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^# pass [1-9]", done.stdout, re.MULTILINE), done.stdout
