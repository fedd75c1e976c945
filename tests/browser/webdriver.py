"""WebKit (WebKitGTK's MiniBrowser), by classic WebDriver over HTTP, on a screen of its own (Xvfb)."""

from __future__ import annotations

import base64
import http.client
import json
import os
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import Popen
from typing import Any

import driver
from driver import DEADLINE, BrowserError, NavigatingError

PROGRAM, PACKAGE = "WebKitWebDriver", "webkit2gtk-driver xvfb"
MINI_BROWSER = "webkit2gtk-4.1/MiniBrowser"
ARGUMENTS = ["--automation", "--javascript-can-open-windows-automatically=true"]
ENVIRONMENT = {
    "GDK_BACKEND": "x11",
    "WEBKIT_DISABLE_SANDBOX_THIS_IS_DANGEROUS": "1",  # tests run as root in containers
    "LIBGL_ALWAYS_SOFTWARE": "1",
}
#: Scripts are calls of functions; those of ours are told the value, or the error, of what they await.
SCRIPT = """const told = arguments[0];
(async () => (%s))().then((value) => told({ value }), (error) => told({ error: `${error}` }))"""
GONE = ("no such window", "no such frame", "unknown error")  # kinds of an error: the page went away
KEYS = {"\r": "\ue007", "\t": "\ue004"}
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the name of an element's reference, from the standard


@contextmanager
def browser(program: str) -> Iterator[Browser]:
    """A browser with nothing kept from before, gone at the end of the block."""
    with _screen() as display:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        environment = {**os.environ, **ENVIRONMENT, "DISPLAY": display}
        with driver.running([program, f"--port={port}"], env=environment) as process:
            wire = http.client.HTTPConnection("127.0.0.1", port, timeout=2 * DEADLINE)
            driver.listening(process, wire.connect)
            made = Browser(process, wire)
            try:
                yield made
                made.quit()
            finally:
                wire.close()


@contextmanager
def _screen() -> Iterator[str]:
    """The name of a display that nobody sees."""
    program = shutil.which("Xvfb")
    assert program is not None, "no `Xvfb` on the PATH (apt-get install xvfb)"
    reader, writer = os.pipe()
    command = [program, "-displayfd", str(writer), "-screen", "0", "1200x900x24", "-nolisten", "tcp"]
    with os.fdopen(reader) as told, driver.running(command, pass_fds=(writer,)):
        os.close(writer)
        yield f":{told.readline().strip()}"


class Browser(driver.Browser):
    """One session of one browser.  Its pages are its windows: they share cookies and localStorage."""

    name = "webkit"
    offline = False  # the protocol has no word for it
    loopback_is_secure = False
    looks = False  # nor for dark; and a window is as wide as its tool bar at least

    def __init__(self, process: Popen[bytes], wire: http.client.HTTPConnection) -> None:
        self._wire = wire
        binary = next(str(path) for path in Path("/usr").glob(f"lib*/**/{MINI_BROWSER}"))
        options = {"webkitgtk:browserOptions": {"binary": binary, "args": ARGUMENTS}}
        self._path = ""
        made = self.command("POST", "/session", {"capabilities": {"alwaysMatch": options}})
        self._path = f"/session/{made['sessionId']}"
        self._first = self._seen = self.command("GET", "/window")
        super().__init__(process, f"WebKitGTK/{made['capabilities']['browserVersion']}")

    def command(self, method: str, path: str, params: dict[str, Any] | None = None) -> Any:
        """Send one command and return its result.  Raises BrowserError if the browser refuses it."""
        body = None if method == "GET" else json.dumps(params or {})
        self._wire.request(method, self._path + path, body, {"Content-Type": "application/json"})
        response = self._wire.getresponse()
        answer = json.loads(response.read())["value"]
        if response.status != 200:
            told = f"{path}: {answer['error']}: {answer.get('message')}"
            raise NavigatingError(told) if answer["error"] in GONE else BrowserError(told)
        return answer

    def to(self, window: str) -> None:
        """What is said from now on is said to this window."""
        if window != self._seen:
            self.command("POST", "/window", {"handle": window})
            self._seen = window

    def to_first(self) -> None:
        """The window that was spoken to is closed.  The first one stays empty: without a window no new one opens."""
        self._seen = ""
        self.to(self._first)

    def page(self, url: str, *, width: int = 1000, height: int = 700, dark: bool = False) -> Page:
        window = self.command("POST", "/window/new", {"type": "window"})["handle"]
        page = Page(self, window)
        page.go(url)
        return page

    def opened_by(self, page: driver.Page, expression: str) -> Page:
        before = self._windows()
        page.evaluate(f"void {expression}", gesture=True)
        until = time.monotonic() + DEADLINE
        while not (made := self._windows() - before):
            assert time.monotonic() < until, f"{expression} opened nothing"
        opened = Page(self, made.pop())
        opened.wait_loaded()
        return opened

    def _windows(self) -> set[str]:
        return set(self.command("GET", "/window/handles"))

    def quit(self) -> None:
        """End the browser."""
        self.command("DELETE", "")


class Page(driver.Page):
    """One window.  WebDriver tells of no complaint."""

    def __init__(self, owner: Browser, window: str) -> None:
        super().__init__()
        self._browser = owner
        self._window = window

    def command(self, method: str, path: str, params: dict[str, Any] | None = None) -> Any:
        """Send one command about this page."""
        self._browser.to(self._window)
        return self._browser.command(method, path, params)

    def evaluate(self, expression: str, *, gesture: bool = False) -> Any:
        answer = self.command("POST", "/execute/async", {"script": SCRIPT % expression, "args": []})
        if answer is None:
            raise NavigatingError(expression)
        if "error" in answer:
            raise BrowserError(answer["error"])
        return answer.get("value")

    def _navigate(self, url: str) -> None:
        self.command("POST", "/url", {"url": url})

    def _reload(self) -> None:
        self.command("POST", "/refresh")

    def back(self) -> None:
        self.command("POST", "/back")

    def front(self) -> None:
        self._browser.to(self._window)

    def _element(self, path: str, params: dict[str, Any] | None = None) -> str:
        return str(self.command("GET" if params is None else "POST", path, params)[ELEMENT])

    def click(self, selector: str) -> None:
        x, y = self.middle(selector)
        moves = [
            {"type": "pointerMove", "x": x, "y": y},
            {"type": "pointerDown", "button": 0},
            {"type": "pointerUp", "button": 0},
        ]
        self.command("POST", "/actions", {"actions": [{"type": "pointer", "id": "mouse", "actions": moves}]})

    def keys(self, text: str) -> None:
        if max(text) > "\uffff":  # the protocol's keys are of 16 bits here
            self.evaluate(f"document.execCommand('insertText', false, {json.dumps(text)})")
            return
        focused = self._element("/element/active")
        sent = "".join(KEYS.get(one, one) for one in text)
        self.command("POST", f"/element/{focused}/value", {"text": sent})

    def look(self, *, width: int = 1000, height: int = 700, dark: bool = False) -> None:
        self.command("POST", "/window/rect", {"width": width, "height": height})

    def picture(self) -> bytes:
        return base64.b64decode(self.command("GET", "/screenshot"))

    def close(self) -> None:
        self.command("DELETE", "/window")
        self._browser.to_first()
