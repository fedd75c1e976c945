"""A tiny driver for a real browser: the Chrome DevTools Protocol over one WebSocket, synchronous.

Enough to open pages that share nothing, evaluate JavaScript in them, wait for what it says, and take pictures.
What a page complains about (an uncaught exception, an error in its console) is kept in `Page.complaints`.
"""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

DEADLINE = 20.0  # seconds; a browser on a busy machine, so generous: it is only ever reached by a failure
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


def find_browser() -> str | None:
    """The path of a Chromium, None if there is none."""
    return shutil.which("chromium")


class BrowserError(Exception):
    """The browser, or the script of a page, refused something."""


@contextmanager
def browser(executable: str) -> Iterator[Browser]:
    """A headless browser with an empty profile, gone at the end of the block."""
    with tempfile.TemporaryDirectory(prefix="cdp-", ignore_cleanup_errors=True) as profile:
        command = [executable, *ARGUMENTS, f"--user-data-dir={profile}"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            # No pings: they come from a thread, by the global `random`, which Hypothesis catches in other tests.
            with connect(_endpoint(process, Path(profile)), max_size=None, ping_interval=None) as websocket:
                made = Browser(websocket)
                yield made
                made.quit()
            process.wait(DEADLINE)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()


def _endpoint(process: subprocess.Popen[bytes], profile: Path) -> str:
    """The address at which the browser listens, from the file it writes when it does."""
    deadline = time.monotonic() + DEADLINE
    while time.monotonic() < deadline and process.poll() is None:
        try:
            port, path = (profile / "DevToolsActivePort").read_text().split("\n")
        except (FileNotFoundError, ValueError):  # not there, or half written
            time.sleep(0.02)
        else:
            return f"ws://127.0.0.1:{port}{path}"
    raise BrowserError(f"the browser did not start (exit code {process.poll()})")


class Browser:
    """One connection to one browser; every page's commands go through it."""

    def __init__(self, websocket: ClientConnection) -> None:
        self._websocket = websocket
        self._number = 0
        self._pages: dict[str, Page] = {}

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
            raise BrowserError(f"{method}: {message['error']['message']}")
        return message["result"]

    def page(self, url: str, *, width: int = 1000, height: int = 700, dark: bool = False) -> Page:
        """Open `url` in a page that shares no storage with any other, and wait until it is loaded."""
        context = self.command("Target.createBrowserContext")["browserContextId"]
        target = self.command("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        page = self._attach(target, context)
        page.look(width=width, height=height, dark=dark)
        page.go(url)
        return page

    def _attach(self, target: str, context: str) -> Page:
        session = self.command("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = self._pages[session] = Page(self, session, target, context)
        for domain in ("Page", "Runtime", "Log"):
            page.command(f"{domain}.enable")
        return page

    def opened_by(self, page: Page, expression: str) -> Page:
        """The page that `expression` opens from `page`: of the same storage, with a copy of its sessionStorage."""
        before = self._targets()
        page.command("Runtime.evaluate", expression=expression, userGesture=True)  # or it would be blocked
        until = time.monotonic() + DEADLINE
        while not (made := self._targets() - before):
            assert time.monotonic() < until, f"{expression} opened nothing"
        opened = self._attach(made.pop(), page.context)
        opened.wait_loaded()
        return opened

    def _targets(self) -> set[str]:
        infos: list[dict[str, Any]] = self.command("Target.getTargets")["targetInfos"]
        return {info["targetId"] for info in infos if info["type"] == "page"}

    def quit(self) -> None:
        """Ask the browser to end."""
        self.command("Browser.close")

    def forget(self, session: str) -> None:
        """No more is heard of a page."""
        self._pages.pop(session, None)

    def _event(self, message: dict[str, Any]) -> None:
        page = self._pages.get(message.get("sessionId", ""))
        if page is not None:
            page.hear(message["method"], message["params"])


class Page:
    """One page."""

    def __init__(self, owner: Browser, session: str, target: str, context: str) -> None:
        self._browser = owner
        self._session = session
        self._target = target
        self.context = context
        #: What the page's scripts and the browser's console complained about.
        self.complaints: list[str] = []

    def command(self, method: str, /, **params: Any) -> Any:
        """Send one command about this page."""
        return self._browser.command(method, self._session, **params)

    def go(self, url: str) -> None:
        """Navigate, and wait until the page is loaded."""
        self.evaluate("window.unloaded = false")
        self.command("Page.navigate", url=url)
        self.wait_loaded()

    def reload(self) -> None:
        """As by the button."""
        self.evaluate("window.unloaded = false")
        self.command("Page.reload")
        self.wait_loaded()

    def back(self) -> None:
        """To the page before, which may be shown as it was left."""
        history = self.command("Page.getNavigationHistory")
        self.command("Page.navigateToHistoryEntry", entryId=history["entries"][history["currentIndex"] - 1]["id"])

    def wait_loaded(self) -> None:
        """Until there is a page that is not the one before, with all it consists of."""
        self.wait_for(
            "window.unloaded === undefined && location.href !== 'about:blank' && document.readyState === 'complete'"
        )

    def offline(self, on: bool) -> None:
        """Take the network away from this page, or give it back.  Open WebSockets may survive."""
        self.command("Network.enable")
        self.command(
            "Network.emulateNetworkConditions", offline=on, latency=0, downloadThroughput=-1, uploadThroughput=-1
        )

    def frozen(self, on: bool) -> None:
        """What a browser does with a page that was not seen for long; and seeing it again."""
        self.command("Page.setWebLifecycleState", state="frozen" if on else "active")
        if not on:  # it stays hidden, its timers slow, until its window comes up
            window = self.command("Browser.getWindowForTarget")["windowId"]
            for state in ("minimized", "normal"):
                self.command("Browser.setWindowBounds", windowId=window, bounds={"windowState": state})

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression, awaited if it is a promise.  Raises BrowserError if it throws."""
        result = self.command("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in result:
            raise BrowserError(_told(result["exceptionDetails"]))
        return result["result"].get("value")

    def wait_for(self, expression: str, *, deadline: float = DEADLINE) -> Any:
        """Look again and again until `expression` is truthy, and return it.  Raises BrowserError at the deadline."""
        looks = f"(async () => ({expression}) || new Promise(look => setTimeout(look, 20, null)))()"
        until = time.monotonic() + deadline
        while time.monotonic() < until:
            if value := self._look(looks):
                return value
        raise BrowserError(f"not so within {deadline} s: {expression}; the page says: {self.text()!r}")

    def _look(self, expression: str) -> Any:
        try:
            return self.evaluate(expression)
        except BrowserError as error:
            if any(word in str(error) for word in ("context was destroyed", "Cannot find", "navigated")):
                return None  # the page is navigating
            raise

    def text(self, selector: str = "body") -> str:
        """What a person reads in an element."""
        return str(self.evaluate(f"document.querySelector({json.dumps(selector)}).innerText"))

    def click(self, selector: str) -> None:
        """Click in the middle of an element with a real mouse event."""
        x, y = self.evaluate(
            f"(box => [box.x + box.width / 2, box.y + box.height / 2])"
            f"(document.querySelector({json.dumps(selector)}).getBoundingClientRect())"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.command("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def type(self, selector: str, text: str) -> None:
        """Put the cursor into a field and type."""
        self.evaluate(f"document.querySelector({json.dumps(selector)}).focus()")
        self.command("Input.insertText", text=text)

    def press_enter(self) -> None:
        """Press Enter where the cursor is."""
        key = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "text": "\r"}
        self.command("Input.dispatchKeyEvent", type="keyDown", **key)
        self.command("Input.dispatchKeyEvent", type="keyUp", **key)

    def look(self, *, width: int = 1000, height: int = 700, dark: bool = False) -> None:
        """Set the window's size, and whether the person prefers dark."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.command("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.command("Emulation.setEmulatedMedia", features=[scheme])

    def screenshot(self, path: Path) -> None:
        """Write a PNG of what is seen."""
        path.write_bytes(base64.b64decode(self.command("Page.captureScreenshot", format="png")["data"]))

    def close(self) -> None:
        """Close the page and drop its storage."""
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
