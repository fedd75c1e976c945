"""Firefox, by WebDriver BiDi over one WebSocket, synchronous."""

from __future__ import annotations

import base64
import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import Popen
from typing import Any

import driver
from driver import DEADLINE, BrowserError, NavigatingError
from websockets.sync.client import ClientConnection, connect

PROGRAM, PACKAGE = "firefox-esr", "firefox-esr"
ARGUMENTS = (
    "--headless",
    "--no-remote",
    "--remote-debugging-port=0",
    "--remote-allow-system-access",  # what people set in the preferences is not to be had otherwise
)
PREFERENCES = """
user_pref("browser.shell.checkDefaultBrowser", false);
user_pref("datareporting.policy.dataSubmissionEnabled", false);
user_pref("network.captive-portal-service.enabled", false);
user_pref("network.connectivity-service.enabled", false);
"""
#: In the words of an error: the page went away.
GONE = (
    "no such frame",
    "no such history entry",
    "destroyed",
    "AbortError",
    "DOMException: Window",
    "Realm",
    "discarded",
)
KEYS = {"\r": "\ue007", "\t": "\ue004"}
PATIENCE = 3 * DEADLINE  # a first start, with an empty profile, takes long
DARK = "layout.css.prefers-color-scheme.content-override"


@contextmanager
def browser(program: str) -> Iterator[Browser]:
    """A headless browser with an empty profile, gone at the end of the block."""
    with tempfile.TemporaryDirectory(prefix="bidi-", ignore_cleanup_errors=True) as profile:
        (Path(profile) / "user.js").write_text(PREFERENCES)
        with driver.running([program, *ARGUMENTS, "--profile", profile]) as process:

            def address() -> str:
                told = json.loads((Path(profile) / "WebDriverBiDiServer.json").read_text())
                return f"ws://{told['ws_host']}:{told['ws_port']}/session"

            # No pings: they come from a thread, by the global `random`, which Hypothesis catches in other tests.
            with connect(driver.listening(process, address), max_size=None, ping_interval=None) as websocket:
                made = Browser(process, websocket)
                yield made
                made.command("browser.close")
            process.wait(DEADLINE)


class Browser(driver.Browser):
    """One connection to one browser; every page's commands go through it.  Pages share no storage at all."""

    name = "firefox"
    puts_away = False  # decided before `pagehide`: what the page closes there, or before, is closed too late

    def __init__(self, process: Popen[bytes], websocket: ClientConnection) -> None:
        self._websocket = websocket
        self._number = 0
        self._pages: dict[str, Page] = {}
        can = self.command("session.new", capabilities={})["capabilities"]
        super().__init__(process, f"Firefox/{can['browserVersion']}")
        self.command("session.subscribe", events=["log.entryAdded"])

    def command(self, method: str, /, **params: Any) -> Any:
        """Send one command and return its result.  Raises BrowserError if the browser refuses it."""
        self._number += 1
        self._websocket.send(json.dumps({"id": self._number, "method": method, "params": params}))
        while (message := json.loads(self._websocket.recv(PATIENCE))).get("id") != self._number:
            self._event(message)
        if message["type"] == "error":
            raise _error(f"{method}: {message['error']}: {message['message']}")
        return message["result"]

    def page(self, url: str, *, width: int = 1000, height: int = 700, dark: bool = False) -> Page:
        user = self.command("browser.createUserContext")["userContext"]
        context = self.command("browsingContext.create", type="window", userContext=user)["context"]
        page = self._pages[context] = Page(self, context, user)
        page.look(width=width, height=height, dark=dark)
        page.go(url)
        return page

    def opened_by(self, page: driver.Page, expression: str) -> Page:
        assert isinstance(page, Page)
        before = self._contexts()
        page.evaluate(f"void {expression}", gesture=True)
        until = time.monotonic() + DEADLINE
        while not (made := self._contexts() - before):
            assert time.monotonic() < until, f"{expression} opened nothing"
        context = made.pop()
        opened = self._pages[context] = Page(self, context, page.user)
        opened.wait_loaded()
        return opened

    def _contexts(self) -> set[str]:
        return {tree["context"] for tree in self.command("browsingContext.getTree")["contexts"]}

    def privileged(self, script: str) -> None:
        """Run a script as the browser's own window does."""
        chrome = self.command("browsingContext.getTree", **{"moz:scope": "chrome"})["contexts"][0]["context"]
        self.command("script.evaluate", expression=script, target={"context": chrome}, awaitPromise=True)

    def forget(self, context: str) -> None:
        """No more is heard of a page."""
        self._pages.pop(context, None)

    def _event(self, message: dict[str, Any]) -> None:
        entry = message["params"]
        page = self._pages.get(entry.get("source", {}).get("context", ""))
        icon = "favicon.ico" in str(entry.get("text"))  # it wants one for what is no page, too
        if page is not None and entry.get("level") == "error" and not icon:
            page.complaints.append(f"{entry['text']} {entry.get('stackTrace')}")


class Page(driver.Page):
    """One page, of a user context of its own."""

    def __init__(self, owner: Browser, context: str, user: str) -> None:
        super().__init__()
        self._browser = owner
        self._context = context
        self.user = user

    def command(self, method: str, /, **params: Any) -> Any:
        """Send one command about this page."""
        return self._browser.command(method, context=self._context, **params)

    def evaluate(self, expression: str, *, gesture: bool = False) -> Any:
        asked = {"expression": expression, "userActivation": gesture, "awaitPromise": True}
        answer = self._browser.command("script.evaluate", target={"context": self._context}, **asked)
        if answer["type"] == "exception":
            raise _error(str(answer["exceptionDetails"]["text"]))
        return _value(answer["result"])

    def _navigate(self, url: str) -> None:
        self.command("browsingContext.navigate", url=url, wait="none")

    def _reload(self) -> None:
        self.command("browsingContext.reload", wait="none")

    def back(self) -> None:
        self.command("browsingContext.traverseHistory", delta=-1)

    def front(self) -> None:
        self.command("browsingContext.activate")

    def offline(self, on: bool) -> None:
        conditions = {"type": "offline"} if on else None
        self._browser.command("emulation.setNetworkConditions", contexts=[self._context], networkConditions=conditions)

    def click(self, selector: str) -> None:
        x, y = self.middle(selector)
        moves = [
            {"type": "pointerMove", "x": x, "y": y},
            {"type": "pointerDown", "button": 0},
            {"type": "pointerUp", "button": 0},
        ]
        self.command("input.performActions", actions=[{"type": "pointer", "id": "mouse", "actions": moves}])

    def keys(self, text: str) -> None:
        strokes = [{"type": kind, "value": KEYS.get(one, one)} for one in text for kind in ("keyDown", "keyUp")]
        self.command("input.performActions", actions=[{"type": "key", "id": "keyboard", "actions": strokes}])

    def look(self, *, width: int = 1000, height: int = 700, dark: bool = False) -> None:
        self.command("browsingContext.setViewport", viewport={"width": width, "height": height})
        self._browser.privileged(f"Services.prefs.setIntPref({json.dumps(DARK)}, {0 if dark else 1})")  # for all pages

    def picture(self) -> bytes:
        return base64.b64decode(self.command("browsingContext.captureScreenshot")["data"])

    def close(self) -> None:
        self._browser.forget(self._context)
        self._browser.command("browser.removeUserContext", userContext=self.user)


def _value(remote: dict[str, Any]) -> Any:
    """The Python of what BiDi tells of a JavaScript value."""
    kind, value = remote["type"], remote.get("value")
    if kind == "array":
        return [_value(one) for one in value or ()]
    if kind == "object":
        return {name: _value(one) for name, one in value or ()}
    return value if kind in ("string", "number", "boolean") else None


def _error(told: str) -> BrowserError:
    return NavigatingError(told) if any(word in told for word in GONE) else BrowserError(told)
