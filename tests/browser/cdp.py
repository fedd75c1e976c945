"""Chromium, by the Chrome DevTools Protocol over one WebSocket, synchronous."""

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

PROGRAM, PACKAGE = "chromium", "chromium"
ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",  # tests run as root in containers
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",  # /dev/shm is small in containers
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-port=0",
)
GONE = ("context was destroyed", "Cannot find", "navigated")  # in the words of an error: the page went away
KEYS = {"\r": ("Enter", 13), "\t": ("Tab", 9)}


@contextmanager
def browser(program: str) -> Iterator[Browser]:
    """A headless browser with an empty profile, gone at the end of the block."""
    with (
        tempfile.TemporaryDirectory(prefix="cdp-", ignore_cleanup_errors=True) as profile,
        driver.running([program, *ARGUMENTS, f"--user-data-dir={profile}"]) as process,
    ):

        def address() -> str:
            port, path = (Path(profile) / "DevToolsActivePort").read_text().split("\n")
            return f"ws://127.0.0.1:{port}{path}"

        # No pings: they come from a thread, by the global `random`, which Hypothesis catches in other tests.
        with connect(driver.listening(process, address), max_size=None, ping_interval=None) as websocket:
            made = Browser(process, websocket)
            yield made
            made.command("Browser.close")
        process.wait(DEADLINE)


class Browser(driver.Browser):
    """One connection to one browser; every page's commands go through it.  Pages share no storage at all."""

    name = "chromium"
    freezes = True

    def __init__(self, process: Popen[bytes], websocket: ClientConnection) -> None:
        self._websocket = websocket
        self._number = 0
        self._pages: dict[str, Page] = {}
        super().__init__(process, self.command("Browser.getVersion")["product"])

    def command(self, method: str, session: str | None = None, /, **params: Any) -> Any:
        """Send one command and return its result.  Raises BrowserError if the browser refuses it."""
        self._number += 1
        envelope: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if session is not None:
            envelope["sessionId"] = session
        self._websocket.send(json.dumps(envelope))
        while (message := json.loads(self._websocket.recv(DEADLINE))).get("id") != self._number:
            self._event(message)
        if "error" in message:
            raise _error(f"{method}: {message['error']['message']}")
        return message["result"]

    def page(self, url: str, *, width: int = 1000, height: int = 700, dark: bool = False) -> Page:
        context = self.command("Target.createBrowserContext")["browserContextId"]
        target = self.command("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        page = self._attach(target, context)
        page.look(width=width, height=height, dark=dark)
        page.go(url)
        return page

    def _attach(self, target: str, context: str) -> Page:
        session = self.command("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = self._pages[session] = Page(self, session, context)
        for domain in ("Page", "Runtime", "Log"):
            page.command(f"{domain}.enable")
        return page

    def opened_by(self, page: driver.Page, expression: str) -> Page:
        assert isinstance(page, Page)
        before = self._targets()
        page.evaluate(f"void {expression}", gesture=True)
        until = time.monotonic() + DEADLINE
        while not (made := self._targets() - before):
            assert time.monotonic() < until, f"{expression} opened nothing"
        opened = self._attach(made.pop(), page.context)
        opened.wait_loaded()
        return opened

    def _targets(self) -> set[str]:
        infos: list[dict[str, Any]] = self.command("Target.getTargets")["targetInfos"]
        return {info["targetId"] for info in infos if info["type"] == "page"}

    def forget(self, session: str) -> None:
        """No more is heard of a page."""
        self._pages.pop(session, None)

    def _event(self, message: dict[str, Any]) -> None:
        page = self._pages.get(message.get("sessionId", ""))
        if page is not None:
            page.hear(message["method"], message["params"])


class Page(driver.Page):
    """One page, of a browser context of its own."""

    def __init__(self, owner: Browser, session: str, context: str) -> None:
        super().__init__()
        self._browser = owner
        self._session = session
        self.context = context

    def command(self, method: str, /, **params: Any) -> Any:
        """Send one command about this page."""
        return self._browser.command(method, self._session, **params)

    def evaluate(self, expression: str, *, gesture: bool = False) -> Any:
        asked = {"expression": expression, "userGesture": gesture, "awaitPromise": True, "returnByValue": True}
        result = self.command("Runtime.evaluate", **asked)
        if "exceptionDetails" in result:
            raise _error(_told(result["exceptionDetails"]))
        return result["result"].get("value")

    def _navigate(self, url: str) -> None:
        self.command("Page.navigate", url=url)

    def _reload(self) -> None:
        self.command("Page.reload")

    def back(self) -> None:
        history = self.command("Page.getNavigationHistory")
        self.command("Page.navigateToHistoryEntry", entryId=history["entries"][history["currentIndex"] - 1]["id"])

    def front(self) -> None:
        self.command("Page.bringToFront")

    def offline(self, on: bool) -> None:
        self.command("Network.enable")
        self.command(
            "Network.emulateNetworkConditions", offline=on, latency=0, downloadThroughput=-1, uploadThroughput=-1
        )

    def frozen(self, on: bool) -> None:
        self.command("Page.setWebLifecycleState", state="frozen" if on else "active")
        if not on:  # it stays hidden, its timers slow, until its window comes up
            window = self.command("Browser.getWindowForTarget")["windowId"]
            for state in ("minimized", "normal"):
                self.command("Browser.setWindowBounds", windowId=window, bounds={"windowState": state})

    def click(self, selector: str) -> None:
        x, y = self.middle(selector)
        for kind in ("mousePressed", "mouseReleased"):
            self.command("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def keys(self, text: str) -> None:
        if text not in KEYS:
            self.command("Input.insertText", text=text)
            return
        name, code = KEYS[text]
        key = {"key": name, "code": name, "windowsVirtualKeyCode": code, "text": text}
        self.command("Input.dispatchKeyEvent", type="keyDown", **key)
        self.command("Input.dispatchKeyEvent", type="keyUp", **key)

    def look(self, *, width: int = 1000, height: int = 700, dark: bool = False) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.command("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.command("Emulation.setEmulatedMedia", features=[scheme])

    def picture(self) -> bytes:
        return base64.b64decode(self.command("Page.captureScreenshot", format="png")["data"])

    def close(self) -> None:
        self._browser.forget(self._session)
        self._browser.command("Target.disposeBrowserContext", browserContextId=self.context)

    def hear(self, method: str, params: dict[str, Any]) -> None:
        """Keep what is a complaint among the events of the page."""
        if method == "Runtime.exceptionThrown":
            self.complaints.append(_told(params["exceptionDetails"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.complaints.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")


def _told(details: dict[str, Any]) -> str:
    return str(details.get("exception", {}).get("description") or details["text"])


def _error(told: str) -> BrowserError:
    return NavigatingError(told) if any(word in told for word in GONE) else BrowserError(told)
